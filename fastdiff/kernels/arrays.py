"""Passing arrays to the compiled kernels."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import to_dlpack  # type: ignore[attr-defined]

from fastdiff.errors import InvalidArgument

Array: TypeAlias = "NDArray[Any] | torch.Tensor"


def to_native(array: Array) -> Any:
    """Return what the compiled kernels take: a NumPy array, or a DLPack capsule of a CPU tensor.

    Nothing is copied.

    Raises
    ------
    InvalidArgument
        If a tensor is not in CPU memory, or the object is neither kind.
    """
    if isinstance(array, torch.Tensor):
        if not array.is_cpu:
            raise InvalidArgument(
                f"expected a tensor in CPU memory, got one on {array.device}; pass .cpu()"
            )
        return to_dlpack(array)
    if isinstance(array, np.ndarray):
        return array
    raise InvalidArgument(f"expected a torch tensor or a NumPy array, got {type(array).__name__}")
