"""Records as the device sees them."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def as_bytes(records: NDArray[np.void]) -> torch.Tensor:
    """(k,) records as (k, itemsize) uint8."""
    return torch.from_numpy(records.view(np.uint8).reshape(-1, records.dtype.itemsize).copy())
