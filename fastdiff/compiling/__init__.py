"""Choosing the backend, the precision and the batch sizes of a model by measurement.

::

    Choices -> tuning: build each candidate -> certificate: is it right -> measuring: how fast is it
               Report: everything that was measured      Compiled: the backend that was chosen
"""

from fastdiff.compiling.choices import Choices
from fastdiff.compiling.compiled import Compiled
from fastdiff.compiling.tuning import tune

__all__ = ["Choices", "Compiled", "tune"]
