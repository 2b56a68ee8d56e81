"""The solver step, and the gathering of the denoiser's inputs, in Triton, each in one launch.

The arithmetic is that of ``docs/contracts.md``, with the bits of the compiled CPU kernels. Records
are in device memory, so a captured launch can be replayed at any step of any solver. Their contents
are not checked, since that would mean waiting for the device: indices must be in range, slots
distinct.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fastdiff.errors import InvalidShape
from fastdiff.kernels import triton_module
from fastdiff.kernels.step.arguments import check_gather, check_step
from fastdiff.kernels.step.triton_kernels import gather_kernel, step_kernel
from fastdiff.kernels.triton_module import MAX_ELEMENTS

__all__ = ["gather", "step"]

# The counters of the chunks of each row, for each tensor of flags. They are zero between launches.
_arrivals = WeakTensorKeyDictionary()


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
    """Take one solver step of each row of a batch, in one launch on the current stream.

    All tensors are contiguous and on one device. Those that are written must not share memory with
    each other or with ``output``. The call waits for nothing. When a ``flags`` tensor is first
    used, eight bytes are allocated for each row, so the tensor should be kept. Two launches must
    not use the same one at the same time.

    Parameters
    ----------
    table : (R, 96) uint8
        Records of :data:`fastdiff.records.TABLE_ROW`.
    rows : (B, 40) uint8
        Records of :data:`fastdiff.records.BATCH_ROW`, no two with one slot. A row with slot -1 is
        padding: nothing of it is read or written.
    state : (S, n) float32
        x of each slot, replaced by x' for the slots of the batch.
    output : (E, m) float32, bfloat16 or float16
        What the denoiser returned: m >= n, and m >= 2n where a learned noise scale is used.
    flags : (B,) uint8
        Set to 1 where an m, v or x' of the row is not finite, else to 0.
    history : (K, S, n) float32, optional
        History slot j of the table is ``history[j - 1]``; K is at most 4, and no table row in use
        names a higher slot. Updated in place.
    next_input : (S, n) float32, bfloat16 or float16, optional
        Gets c_in_next x', rounded to nearest even.
    denoised : (S, n) float32, optional
        Gets D.

    Raises
    ------
    InvalidArgument
        If a tensor is on another device or not contiguous; `InvalidShape` or `InvalidDtype` if it
        does not fit.
    Unavailable
        If ``state`` is not where Triton kernels run.
    """
    device = triton_module.check_device(state)
    if state.dim() == 2 and not 0 < state.shape[1] <= MAX_ELEMENTS:
        raise InvalidShape(
            f"state: expected rows of 1 to {MAX_ELEMENTS} elements, got {state.shape[1]}"
        )
    batch = check_step(device, table, rows, state, output, flags, history, next_input, denoised)
    slots, n = state.shape
    block = triton_module.block(n)
    triton_module.launch(
        step_kernel,
        batch * -(-n // block),
        device,
        table,
        rows,
        state,
        output,
        flags,
        _arrivals_of(flags),
        history,
        next_input,
        denoised,
        n,
        output.shape[1],
        slots * n,
        HISTORY=0 if history is None else len(history),
        BLOCK=block,
    )


def gather(table: Tensor, rows: Tensor, next_input: Tensor, x: Tensor, t: Tensor) -> None:
    """Gather the inputs of the denoiser for each row of a batch, in one launch.

    It sets ``x[r] = next_input[slot]`` and ``t[r] = table[table_row].t`` for r = cond of each row
    of the batch, and for r = uncond if that is not -1.

    Parameters
    ----------
    table, rows
        As for :func:`step`.
    next_input : (S, n) float32, bfloat16 or float16
    x : (E, n) of the same dtype
    t : (E,) float32

    Raises
    ------
    InvalidArgument, Unavailable
        As :func:`step` does.
    """
    device = triton_module.check_device(x)
    batch = check_gather(device, table, rows, next_input, x, t)
    n = next_input.shape[1]
    block = triton_module.block(n)
    programs = batch * -(-n // block)
    triton_module.launch(
        gather_kernel, programs, device, table, rows, next_input, x, t, n, BLOCK=block
    )


def _arrivals_of(flags: Tensor) -> Tensor:
    counters: Tensor | None = _arrivals.get(flags)
    if counters is None:
        counters = torch.zeros(flags.shape, dtype=torch.int64, device=flags.device)
        _arrivals[flags] = counters
    return counters
