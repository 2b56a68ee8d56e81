"""Batches for the tests of the solver step: drawn at random, covering every term and dtype."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fastdiff.kernels import step as kernel
from fastdiff.kernels.step import reference
from fastdiff.records import BATCH_ROW, TABLE_ROW

OUTPUT_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass
class Batch:
    """Arguments of a step, as float32 NumPy arrays and the dtypes that they travel in."""

    table: NDArray[np.void]
    rows: NDArray[np.void]
    state: NDArray[np.float32]
    output: NDArray[np.float32]  # already rounded to output_dtype
    history: NDArray[np.float32]
    output_dtype: torch.dtype
    next_dtype: torch.dtype


@dataclass
class Result:
    """What a step leaves behind."""

    flags: NDArray[np.uint8]
    state: NDArray[Any]
    history: NDArray[Any]
    denoised: NDArray[Any]
    next_input: NDArray[Any]  # float32 before the cast, or upcast after it


def random_table(rng: np.random.Generator, length: int) -> NDArray[np.void]:
    """Rows with each term present or absent at random."""
    table = np.zeros(length, TABLE_ROW)
    for name in ("x", "h"):
        present = rng.random((length, 8)) < 0.6
        present[:, [0, 5]] = True
        table[name] = np.where(present, rng.normal(0, 1, (length, 8)), 0)
    quiet = rng.random(length) < 0.3  # rows with no history, m or noise at all
    for name in ("x", "h"):
        table[name][np.ix_(quiet, [1, 2, 3, 4, 6, 7])] = 0
    table["p"], table["q"] = rng.normal(0, 1, (2, length))
    table["clip"] = rng.choice([0.7, 1.0, np.inf], length)
    table["c_in_next"] = rng.normal(0, 1, length)
    table["w"] = np.where(rng.random(length) < 0.5, rng.normal(0, 1, length), 0)
    table["dst"] = rng.integers(0, 5, length)
    return table


def random_batch(
    seed: int, *, rows: int, n: int, output_dtype: str = "float32", next_dtype: str = "float32"
) -> Batch:
    rng = np.random.default_rng(seed)
    slots, outputs = rows + 2, 2 * rows + 1
    records = np.zeros(rows, BATCH_ROW)
    records["seed"] = rng.integers(0, 2**64, rows, np.uint64)
    records["image"] = rng.integers(0, 2**48, rows)
    records["table_row"] = rng.integers(0, 3, rows)
    records["slot"] = rng.permutation(slots)[:rows]
    records["draw"] = rng.integers(0, 2**32, rows)
    records["guidance"] = rng.normal(1, 3, rows)
    records["cond"] = rng.integers(0, outputs, rows)
    records["uncond"] = rng.integers(-1, outputs, rows)
    output = torch.from_numpy(rng.standard_normal((outputs, 2 * n + 1), np.float32))
    dtype = OUTPUT_DTYPES[output_dtype]
    return Batch(
        table=random_table(rng, 3),
        rows=records,
        state=rng.standard_normal((slots, n), np.float32),
        output=output.to(dtype).float().numpy(),
        history=rng.standard_normal((4, slots, n), np.float32),
        output_dtype=dtype,
        next_dtype=OUTPUT_DTYPES[next_dtype],
    )


def run_native(batch: Batch) -> Result:
    """The compiled step on fresh arrays; what it does not write stays NaN."""
    state = torch.from_numpy(batch.state.copy())
    history = torch.from_numpy(batch.history.copy())
    denoised = torch.full_like(state, torch.nan)
    next_input = torch.full_like(state, torch.nan, dtype=batch.next_dtype)
    flags = kernel.step(
        table=batch.table,
        rows=batch.rows,
        state=state,
        output=torch.from_numpy(batch.output).to(batch.output_dtype),
        history=history,
        next_input=next_input,
        denoised=denoised,
    )
    arrays = (state, history, denoised, next_input.float())
    return Result(flags, *(array.numpy() for array in arrays))


def run_reference(batch: Batch, dtype: type[np.floating[Any]]) -> Result:
    state, history = batch.state.astype(dtype), batch.history.astype(dtype)
    denoised, next_input = np.full((2, *state.shape), np.nan, dtype)
    flags = reference.step(
        table=batch.table,
        rows=batch.rows,
        state=state,
        output=batch.output,
        history=history,
        next_input=next_input,
        denoised=denoised,
        dtype=dtype,
    )
    return Result(flags, state, history, denoised, next_input)


def rounded(result: Result, dtype: torch.dtype) -> Result:
    """The result with its next input rounded to the dtype of the denoiser."""
    next_input = torch.from_numpy(result.next_input).to(dtype).float().numpy()
    return replace(result, next_input=next_input)


def assert_same_bits(got: Result, want: Result) -> None:
    """Equal bit for bit; a NaN equals a NaN."""
    assert got.flags.tolist() == want.flags.tolist()
    for name in ("state", "history", "denoised", "next_input"):
        a, b = getattr(got, name), getattr(want, name)
        assert a.dtype == b.dtype == np.float32, name
        same = (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))
        assert same.all(), f"{name} differs in {(~same).sum()} of {same.size} elements"
