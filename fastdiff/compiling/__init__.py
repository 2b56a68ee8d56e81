"""Choosing the backend, the precision and the batch sizes of a model by measurement.

::

    CompileOptions -> tuning: build each candidate -> certificate: is it right
                                                   -> measuring: how fast is it
    Report: everything that was measured              Compiled: the backend that was chosen
"""

from fastdiff.compiling.compiled import Compiled
from fastdiff.compiling.options import CompileOptions
from fastdiff.compiling.tuning import tune

__all__ = ["CompileOptions", "Compiled", "tune"]
