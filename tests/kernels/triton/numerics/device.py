"""Where the kernels of these tests run: in Triton's interpreter, or on a GPU."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fastdiff.kernels import triton_module

INTERPRETING = triton_module.interpreting()
DEVICE = torch.device("cpu" if INTERPRETING else "cuda")


def on_device(array: NDArray[np.generic]) -> torch.Tensor:
    """A copy of an array where kernels run."""
    return torch.from_numpy(array.copy()).to(DEVICE)


def record_bytes(records: NDArray[np.void]) -> torch.Tensor:
    """(k,) records as (k, itemsize) uint8 where kernels run."""
    return on_device(records.view(np.uint8).reshape(-1, records.dtype.itemsize))
