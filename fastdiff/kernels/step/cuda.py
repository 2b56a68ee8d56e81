"""The solver step and the gather of the denoiser's inputs in CUDA C++, one launch each.

The arithmetic is the header that the CPU kernels are compiled from. Records are device data, so a
captured launch can be replayed at any step of any solver. Their contents cannot be checked without
waiting for the device: indices must be in range and slots distinct.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.kernels import cuda_module
from fastdiff.kernels.cuda_module import ELEMENT_TYPES, address
from fastdiff.kernels.triton_module import FLOATS, check
from fastdiff.records import BATCH_ROW, TABLE_ROW

__all__ = ["gather", "step"]

_FLOAT32 = (torch.float32,)
_BYTES = (torch.uint8,)
_MAX_HISTORY = 4

# Where the blocks of a row are counted, zero between launches, for each flags tensor.
_tickets = WeakTensorKeyDictionary()


def step(
    table: Tensor,
    rows: Tensor,
    state: Tensor,
    output: Tensor,
    flags: Tensor,
    history: Tensor | None = None,
    next_input: Tensor | None = None,
    denoised: Tensor | None = None,
) -> None:
    """One solver step of each row of a batch, in one launch on the current stream.

    Takes what :func:`fastdiff.kernels.step.triton.step` takes. Nothing is waited for, and nothing
    allocated but four bytes a row when a ``flags`` tensor is first seen: keep one, and let no two
    launches use it at a time.

    Raises
    ------
    InvalidArgument
        If a tensor is on another device or not contiguous; `InvalidShape` or `InvalidDtype` if it
        does not fit.
    Unavailable
        If the kernels are not built, or ``state`` is not where they can run.
    """
    device = cuda_module.check_device(state)
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
    cuda_module.launch(
        "step",
        device,
        address(table),
        address(rows),
        batch,
        address(state),
        address(history),
        slots,
        n,
        address(output),
        output.shape[1],
        address(next_input),
        address(denoised),
        address(flags),
        address(_tickets_of(flags)),
        ELEMENT_TYPES[output.dtype],
        ELEMENT_TYPES[torch.float32 if next_input is None else next_input.dtype],
    )


def gather(table: Tensor, rows: Tensor, next_input: Tensor, x: Tensor, t: Tensor) -> None:
    """Collect what the denoiser gets for each row of a batch, in one launch.

    Takes what :func:`fastdiff.kernels.step.triton.gather` takes, and raises what :func:`step` does.
    """
    device = cuda_module.check_device(x)
    check("next_input", next_input, FLOATS, (None, None), device)
    batch = _check_records(table, rows, device)
    n = next_input.shape[1]
    check("x", x, (next_input.dtype,), (None, n), device)
    check("t", t, _FLOAT32, (len(x),), device)
    cuda_module.launch(
        "gather",
        device,
        address(table),
        address(rows),
        batch,
        address(next_input),
        address(x),
        address(t),
        n,
        x.element_size(),
    )


def _check_records(table: Tensor, rows: Tensor, device: torch.device) -> int:
    """Check the records' containers; return the number of batch rows."""
    for name, records, dtype in (("table", table, TABLE_ROW), ("rows", rows, BATCH_ROW)):
        check(name, records, _BYTES, (None, dtype.itemsize), device)
        if records.data_ptr() % 8:
            raise InvalidArgument(f"{name}: records must start at a multiple of 8 bytes")
    if len(rows) > cuda_module.MAX_ROWS:
        raise InvalidShape(f"rows: expected at most {cuda_module.MAX_ROWS}, got {len(rows)}")
    return len(rows)


def _tickets_of(flags: Tensor) -> Tensor:
    tickets: Tensor | None = _tickets.get(flags)  # type: ignore[no-untyped-call]
    if tickets is None:
        tickets = torch.zeros(flags.shape, dtype=torch.int32, device=flags.device)
        _tickets[flags] = tickets
    return tickets
