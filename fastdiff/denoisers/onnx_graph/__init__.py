"""An ONNX file as a torch module, for engines that start from one.

=============== ===================================================================================
`module.py`     the graph: operators as submodules, weights as their parameters
`operators.py`  each operator as a call of torch
`deferred.py`   values that wait for the next operator, which may join them to one call
`folding.py`    what is computed with NumPy: constants, and shapes
=============== ===================================================================================
"""

from fastdiff.denoisers.onnx_graph.module import OnnxModule, read_onnx_module

__all__ = ["OnnxModule", "read_onnx_module"]
