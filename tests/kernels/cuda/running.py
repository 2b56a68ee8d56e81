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
    """A copy that starts `elements` elements after a multiple of 64 bytes, with NaN around it.

    The margins are as large as the tensor: what a wrong index writes stays in them.
    """
    unit = 64 // tensor.element_size()
    margin = tensor.numel() + unit
    spacious = torch.full((3 * margin + elements,), torch.nan, dtype=tensor.dtype)
    address = spacious.data_ptr() // tensor.element_size() + margin
    start = margin - address % unit + elements
    return spacious[start : start + tensor.numel()].view(tensor.shape).copy_(tensor)


def assert_margins_intact(tensor: Tensor) -> None:
    """Nothing was written beside a tensor that `shifted` made."""
    around = tensor._base
    assert around is not None
    outside = around.isnan().sum() - tensor.isnan().sum()
    assert outside == around.numel() - tensor.numel(), "written outside of the array"


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
    for array in (state, history, denoised, next_input):
        assert_margins_intact(array)
    arrays = (state, history, denoised, next_input.float())
    return Result(flags.numpy().copy(), *(array.numpy() for array in arrays))
