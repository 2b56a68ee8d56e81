"""Checks of the arguments of the step kernels in Triton and in CUDA C++.

The contents of the records are not checked, since that would mean waiting for the device. Their
indices must be in range, and their slots distinct.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.kernels.tensors import FLOATS, check
from fastdiff.records import BATCH_ROW, TABLE_ROW

_FLOAT32 = (torch.float32,)
_BYTES = (torch.uint8,)
_MAX_HISTORY = 4


def check_step(
    device: torch.device,
    table: Tensor,
    rows: Tensor,
    state: Tensor,
    output: Tensor,
    flags: Tensor,
    history: Tensor | None,
    next_input: Tensor | None,
    denoised: Tensor | None,
) -> int:
    """Raise unless the arguments of ``step`` fit; return the number of batch rows."""
    check("state", state, _FLOAT32, (None, None), device)
    slots, n = state.shape
    batch = _check_records(table, rows, device)
    check("output", output, FLOATS, (None, None), device)
    if output.shape[1] < n:
        raise InvalidShape(f"output: expected rows of at least {n} elements, got {output.shape[1]}")
    check("flags", flags, _BYTES, (batch,), device)
    if history is not None:
        check("history", history, _FLOAT32, (None, slots, n), device)
        if len(history) > _MAX_HISTORY:
            raise InvalidShape(
                f"history: expected at most {_MAX_HISTORY} slots, got {len(history)}"
            )
    if next_input is not None:
        check("next_input", next_input, FLOATS, (slots, n), device)
    if denoised is not None:
        check("denoised", denoised, _FLOAT32, (slots, n), device)
    return batch


def check_gather(
    device: torch.device, table: Tensor, rows: Tensor, next_input: Tensor, x: Tensor, t: Tensor
) -> int:
    """Raise unless the arguments of ``gather`` fit; return the number of batch rows."""
    check("next_input", next_input, FLOATS, (None, None), device)
    batch = _check_records(table, rows, device)
    check("x", x, (next_input.dtype,), (None, next_input.shape[1]), device)
    check("t", t, _FLOAT32, (len(x),), device)
    return batch


def _check_records(table: Tensor, rows: Tensor, device: torch.device) -> int:
    """Check the tensors of records, not the contents; return the number of batch rows."""
    for name, records, dtype in (("table", table, TABLE_ROW), ("rows", rows, BATCH_ROW)):
        check(name, records, _BYTES, (None, dtype.itemsize), device)
        if records.data_ptr() % 8:
            raise InvalidArgument(f"{name}: records must start at a multiple of 8 bytes")
    return len(rows)
