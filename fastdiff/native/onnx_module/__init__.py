"""An ONNX file as a torch module, for backends that start from one.

=============== ===================================================================================
`module.py`     the graph: operators as submodules, weights as their parameters
`arithmetic.py` operators as calls of torch; so `layers.py` and `shaping.py`
`values.py`     what they read and return
`deferred.py`   values that wait for the next operator, which may join them to one call
`folding.py`    what is computed with NumPy: constants, and shapes
=============== ===================================================================================
"""

from fastdiff.native.onnx_module.module import OnnxModule, read_onnx_module

__all__ = ["OnnxModule", "read_onnx_module"]
