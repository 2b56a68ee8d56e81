"""The checks of GPU kernels when they first run on a device, on random inputs.

Their results are compared with those of the compiled CPU kernels, bit for bit, where the bits are
specified, and with float64 where they are not.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastdiff.kernels import operators  # noqa: F401  registers torch.ops.fastdiff
from fastdiff.kernels.attention import reference as attention_reference
from fastdiff.records import BATCH_ROW, TABLE_ROW

Kernel = Callable[..., object]
ROWS = 5


def _check_fill_normal(kernel: Kernel, device: torch.device) -> str | None:
    rng = np.random.default_rng(0)
    for n, first in ((63, 0), (4096, 2**33), (65537, 5)):
        seeds = torch.from_numpy(rng.integers(-(2**63), 2**63, ROWS))
        images = torch.from_numpy(rng.integers(0, 2**48, ROWS))
        draw = int(rng.integers(0, 2**32))
        expected = torch.empty(ROWS, n, dtype=torch.float32)
        got = torch.full_like(expected, torch.nan, device=device)
        torch.ops.fastdiff.fill_normal(expected, seeds, images, draw, 1, 1.5, first)
        kernel(got, seeds.to(device), images.to(device), draw, 1, 1.5, first)
        if difference := _bits(f"normals of {n} elements", got, expected):
            return difference
    return None


def _check_step(kernel: Kernel, device: torch.device) -> str | None:
    dtypes = (torch.float32, torch.float16, torch.bfloat16)
    for seed, (n, dtype) in enumerate((n, dtype) for n in (63, 4096) for dtype in dtypes):
        arguments = random_step(seed, n, dtype)
        expected = {name: value.clone() for name, value in arguments.items()}
        got = {name: value.to(device) for name, value in arguments.items()}
        torch.ops.fastdiff.step(**expected)
        kernel(**got)
        for name in ("state", "history", "next_input", "denoised", "flags"):
            if difference := _bits(f"{name} of {n} elements, {dtype}", got[name], expected[name]):
                return difference
    return None


def _check_gather(kernel: Kernel, device: torch.device) -> str | None:
    for seed, n in enumerate((63, 4096)):
        step = random_step(seed, n, torch.float16)
        inputs = {name: step[name] for name in ("table", "rows")}
        inputs["next_input"] = step["state"].half()
        x = torch.zeros(2 * ROWS, n, dtype=torch.float16)
        t = torch.zeros(2 * ROWS, dtype=torch.float32)
        expected = inputs | {"x": x.clone(), "t": t.clone()}
        got = {name: value.to(device) for name, value in (inputs | {"x": x, "t": t}).items()}
        torch.ops.fastdiff.gather(**expected)
        kernel(**got)
        for name in ("x", "t"):
            if difference := _bits(f"{name} of {n} elements", got[name], expected[name]):
                return difference
    return None


def _check_attention(kernel: Kernel, device: torch.device) -> str | None:
    generator = torch.Generator().manual_seed(0)
    for dtype in (torch.float16, torch.bfloat16):
        for queries, keys, size in ((1, 77, 40), (257, 257, 64), (130, 64, 160)):
            q = torch.randn(2, 3, queries, size, generator=generator).to(dtype)
            k, v = torch.randn(2, 2, 3, keys, size, generator=generator).to(dtype)
            expected = attention_reference.attention(_exact(q), _exact(k), _exact(v))
            plain = torch.nn.functional.scaled_dot_product_attention(q, k, v)
            got = torch.full_like(q, torch.nan, device=device)
            kernel(q.to(device), k.to(device), v.to(device), got, size**-0.5)
            what = f"attention of {queries} queries to {keys} keys of {size}, {dtype}"
            if difference := _close(what, got, plain, expected):
                return difference
    return None


CHECKS: dict[str, Callable[[Kernel, torch.device], str | None]] = {
    "fill_normal": _check_fill_normal,
    "step": _check_step,
    "gather": _check_gather,
    "attention": _check_attention,
}
"""The check of each operator. It takes a kernel and a device, and returns a difference or None."""


def random_step(seed: int, n: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """Return arguments of the operator ``step`` in which every term occurs; one row is padding.

    Parameters
    ----------
    seed : int
    n : int
        Elements of a row.
    dtype : torch.dtype
        Of the model's output and of the next input.
    """
    rng = np.random.default_rng(seed)
    slots, evaluations = ROWS + 1, 2 * ROWS
    table = np.zeros(ROWS, TABLE_ROW)
    table["x"] = rng.normal(size=(ROWS, 8))
    table["h"] = rng.normal(size=(ROWS, 8))
    table["x"][1, 1:5] = table["h"][1, 1:5] = 0  # a row that reads no history
    table["x"][2, 6:] = table["h"][2, 6:] = 0  # a row without the terms of output and noise
    table["p"], table["q"] = rng.normal(size=(2, ROWS))
    table["clip"] = [1, np.inf, 0.5, np.inf, 2]
    table["c_in_next"], table["t"] = rng.normal(size=(2, ROWS))
    table["w"] = [0, 0.3, 0, 0, -0.7]
    table["dst"] = [0, 1, 2, 3, 4]
    rows = np.zeros(ROWS + 1, BATCH_ROW)
    rows["seed"] = rng.integers(0, 2**64, ROWS + 1, np.uint64)
    rows["image"] = rng.integers(0, 2**48, ROWS + 1)
    rows["table_row"][:ROWS] = rng.permutation(ROWS)
    rows["slot"] = [*rng.permutation(slots)[:ROWS], -1]
    rows["draw"] = rng.integers(0, 2**32, ROWS + 1)
    rows["guidance"] = rng.normal(2, 1, ROWS + 1)
    rows["cond"], rows["uncond"] = np.arange(ROWS + 1) % ROWS, -1
    rows["uncond"][:3] = ROWS + np.arange(3)
    output = rng.normal(size=(evaluations, 2 * n))
    return {
        "table": torch.from_numpy(table.view(np.uint8).reshape(ROWS, -1)),
        "rows": torch.from_numpy(rows.view(np.uint8).reshape(ROWS + 1, -1)),
        "state": torch.from_numpy(rng.normal(size=(slots, n)).astype(np.float32)),
        "output": torch.from_numpy(output).to(dtype),
        "flags": torch.full((ROWS + 1,), 9, dtype=torch.uint8),
        "history": torch.from_numpy(rng.normal(size=(4, slots, n)).astype(np.float32)),
        "next_input": torch.zeros(slots, n, dtype=dtype),
        "denoised": torch.zeros(slots, n, dtype=torch.float32),
    }


def _bits(what: str, got: Tensor, expected: Tensor) -> str | None:
    """Return where two tensors differ in any bit, or None."""
    a, b = got.cpu().contiguous(), expected.contiguous()
    wrong = (a.view(torch.uint8) != b.view(torch.uint8)).reshape(a.numel(), -1).any(1)
    if not wrong.any():
        return None
    first = int(wrong.nonzero()[0])
    return (
        f"{what}: {int(wrong.sum())} of {a.numel()} differ, the first at {first}: "
        f"{a.flatten()[first].item()!r} for {b.flatten()[first].item()!r}"
    )


def _exact(tensor: Tensor) -> npt.NDArray[np.float64]:
    return np.asarray(tensor.double())


def _close(what: str, got: object, plain: Tensor, expected: npt.NDArray[np.float64]) -> str | None:
    """Return an error above twice that of torch's own operator on a CPU, or None."""
    if not isinstance(got, Tensor):
        return f"{what}: expected a tensor, got {type(got).__name__}"
    exact = torch.from_numpy(expected)
    error = float((got.cpu().double() - exact).abs().max())
    allowed = 2 * float((plain.double() - exact).abs().max()) + 1e-6
    if error <= allowed:  # False for NaN
        return None
    return f"{what}: error {error:.2g}, expected at most {allowed:.2g}"
