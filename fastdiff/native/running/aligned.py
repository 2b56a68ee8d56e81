"""Memory that begins at a cache line: a vector or a row of a tile that lies in two takes two loads.

NumPy's own begins at any 16 bytes, and where it is large hardly ever at 64.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

LINE = 64  # bytes


def aligned_empty(size: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """Return uninitialised memory of `size` elements that begins at a cache line."""
    element = np.dtype(dtype)
    memory = np.empty(size * element.itemsize + LINE, np.uint8)
    begin = -memory.ctypes.data % LINE
    return memory[begin : begin + size * element.itemsize].view(element)


def aligned(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array if it is contiguous and begins at a cache line, else a copy that is."""
    if array.ctypes.data % LINE == 0 and array.flags.c_contiguous:
        return array
    copy = aligned_empty(array.size, array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
