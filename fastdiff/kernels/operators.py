"""The kernels as torch operators, ``torch.ops.fastdiff.*``. Each is one node of a graph.

``step(table, rows, state, output, flags, history=None, next_input=None, denoised=None)``
    One solver step of each row, in one launch. docs/contracts.md has the arithmetic. `flags`, (B,)
    uint8, gets 1 for rows where an m, v or x' is not finite, else 0.
``gather(table, rows, next_input, x, t)``
    The inputs of the denoiser: ``x[e] = next_input[slot]`` and ``t[e] = table[table_row].t`` for
    the conditional evaluation e of every row, and for the unconditional one if the row is guided.
``fill_normal(out, seeds, images, draw, tag, scale=1.0, first=0)``
    Standard normals. `seeds` and `images` are (rows,) int64 with the bits of unsigned numbers.

`table`, (R, 96) uint8, and `rows`, (B, 40) uint8, are the records of docs/contracts.md as bytes, so
that they can be in device memory. A row whose slot is -1 is padding: nothing is read or written for
it, not even its flag.

On a CPU, the compiled kernels compute them. On a CUDA device, the kernels in CUDA C++ do, or those
in Triton if the former cannot be used (`fastdiff.kernels.gpu_kernels`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastdiff.kernels.gpu_kernels import gpu_kernel
from fastdiff.kernels.noise import native as noise
from fastdiff.kernels.step import step as native_step
from fastdiff.records import BATCH_ROW, TABLE_ROW

_SCHEMAS = {
    "step": "(Tensor table, Tensor rows, Tensor(a!) state, Tensor output, Tensor(b!) flags, "
    "Tensor(c!)? history=None, Tensor(d!)? next_input=None, Tensor(e!)? denoised=None) -> ()",
    "gather": "(Tensor table, Tensor rows, Tensor next_input, Tensor(a!) x, Tensor(b!) t) -> ()",
    "fill_normal": "(Tensor(a!) out, Tensor seeds, Tensor images, int draw, int tag, "
    "float scale=1.0, int first=0) -> ()",
}


def _records(tensor: Tensor, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """View (k, itemsize) uint8 as (k,) records."""
    return tensor.numpy().reshape(-1).view(dtype)


def _step(
    table: Tensor,
    rows: Tensor,
    state: Tensor,
    output: Tensor,
    flags: Tensor,
    history: Tensor | None = None,
    next_input: Tensor | None = None,
    denoised: Tensor | None = None,
) -> None:
    batch = _records(rows, BATCH_ROW)
    used = np.flatnonzero(batch["slot"] >= 0)
    bad = native_step(
        table=_records(table, TABLE_ROW),
        rows=batch[used],
        state=state,
        output=output,
        history=history,
        next_input=next_input,
        denoised=denoised,
    )
    flags.numpy()[used] = bad != 0


def _gather(table: Tensor, rows: Tensor, next_input: Tensor, x: Tensor, t: Tensor) -> None:
    batch = _records(rows, BATCH_ROW)
    batch = batch[batch["slot"] >= 0]
    guided = batch[batch["uncond"] >= 0]
    both = np.concatenate([batch, guided])
    where = torch.from_numpy(np.concatenate([batch["cond"], guided["uncond"]]).astype(np.int64))
    x[where] = next_input[torch.from_numpy(both["slot"].astype(np.int64))]
    t[where] = torch.from_numpy(_records(table, TABLE_ROW)["t"][both["table_row"]])


def host_fill_normal(
    out: Tensor,
    seeds: Tensor,
    images: Tensor,
    draw: int,
    tag: int,
    scale: float = 1.0,
    first: int = 0,
    *,
    own_threads: bool = False,
) -> None:
    """Compute ``fill_normal`` on the CPU; `own_threads` is that of `fastdiff.kernels.step.step`."""
    unsigned = [values.numpy().view(np.uint64) for values in (seeds, images)]
    noise.fill_normal(out, unsigned[0], unsigned[1], draw, tag, first, scale, own_threads)


def _register(operator: str, on_cpu: Callable[..., None]) -> None:
    name = f"fastdiff::{operator}"

    def on_gpu(first: Tensor, *args: Any, **kwargs: Any) -> None:
        gpu_kernel(operator, first.device)(first, *args, **kwargs)

    def fake(*args: Any, **kwargs: Any) -> None:
        """Return nothing: operators that only write to their arguments have no result."""

    torch.library.define(name, _SCHEMAS[operator])
    torch.library.impl(name, "cpu")(on_cpu)
    torch.library.impl(name, "cuda")(on_gpu)
    torch.library.register_fake(name)(fake)


_register("step", _step)
_register("gather", _gather)
_register("fill_normal", host_fill_normal)
