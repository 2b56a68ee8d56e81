"""Batches through the CUDA step, as it is called for a GPU but on CPU tensors and the emulator."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdiff.kernels.step.cuda import step

from ..batches import Batch, Result  # noqa: TID252


def records(array: NDArray[np.void]) -> Tensor:
    """(k,) records as (k, itemsize) uint8."""
    return torch.from_numpy(array.view(np.uint8).reshape(len(array), array.itemsize).copy())


def shifted(tensor: Tensor, elements: int) -> Tensor:
    """A copy that starts `elements` elements after an address that is a multiple of 64 bytes."""
    spacious = torch.empty(tensor.numel() + elements + 64, dtype=tensor.dtype)
    start = -(spacious.data_ptr() // tensor.element_size()) % (64 // tensor.element_size())
    copy = spacious[start + elements :][: tensor.numel()].view(tensor.shape)
    return copy.copy_(tensor)


def run_cuda(batch: Batch, *, shift: int = 0, flags: Tensor | None = None) -> Result:
    """The CUDA step on fresh arrays; what it does not write stays NaN, and flags stay 9."""
    state = shifted(torch.from_numpy(batch.state), shift)
    history = shifted(torch.from_numpy(batch.history), shift)
    denoised = shifted(torch.full_like(state, torch.nan), shift)
    next_input = shifted(torch.full_like(state, torch.nan, dtype=batch.next_dtype), shift)
    flags = torch.full((len(batch.rows),), 9, dtype=torch.uint8) if flags is None else flags
    step(
        records(batch.table),
        records(batch.rows),
        state,
        shifted(torch.from_numpy(batch.output).to(batch.output_dtype), shift),
        flags,
        history,
        next_input,
        denoised,
    )
    arrays = (state, history, denoised, next_input.float())
    return Result(flags.numpy().copy(), *(array.numpy() for array in arrays))
