"""The solver step, and the gathering of the denoiser's inputs, in CUDA C++, each in one launch.

The arithmetic is in the header that the CPU kernels are compiled from, too. Records are in device
memory, so a captured launch can be replayed at any step of any solver. Their contents are not
checked, since that would mean waiting for the device: indices must be in range, slots distinct.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from fastdiff.errors import InvalidShape
from fastdiff.kernels import cuda_module
from fastdiff.kernels.cuda_module import ELEMENT_TYPES, address
from fastdiff.kernels.step.arguments import check_gather, check_step

__all__ = ["gather", "step"]

# The counters of the blocks of each row, for each tensor of flags. They are zero between launches.
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
    """Take one solver step of each row of a batch, in one launch on the current stream.

    The arguments are those of :func:`fastdiff.kernels.step.triton.step`. It waits for nothing. When
    a ``flags`` tensor is first used, four bytes are allocated for each row, so the tensor should be
    kept. Two launches must not use the same one at the same time.

    Raises
    ------
    InvalidArgument
        If a tensor is on another device or not contiguous; `InvalidShape` or `InvalidDtype` if it
        does not fit.
    Unavailable
        If the kernels are not built, or ``state`` is not where they can run.
    """
    device = cuda_module.check_device(state)
    batch = _rows_of_a_launch(
        check_step(device, table, rows, state, output, flags, history, next_input, denoised)
    )
    slots, n = state.shape
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
    """Gather the inputs of the denoiser for each row of a batch, in one launch.

    The arguments are those of :func:`fastdiff.kernels.step.triton.gather`, and the errors those of
    :func:`step`.
    """
    device = cuda_module.check_device(x)
    batch = _rows_of_a_launch(check_gather(device, table, rows, next_input, x, t))
    n = next_input.shape[1]
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


def _rows_of_a_launch(count: int) -> int:
    if count > cuda_module.MAX_ROWS:
        raise InvalidShape(f"rows: expected at most {cuda_module.MAX_ROWS}, got {count}")
    return count


def _tickets_of(flags: Tensor) -> Tensor:
    tickets: Tensor | None = _tickets.get(flags)  # type: ignore[no-untyped-call]
    if tickets is None:
        tickets = torch.zeros(flags.shape, dtype=torch.int32, device=flags.device)
        _tickets[flags] = tickets
    return tickets
