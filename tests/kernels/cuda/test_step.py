"""The CUDA step and gather, compiled for the CPU, against NumPy and the compiled CPU kernels."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from emulator import KernelFault, Library, Schedule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape, Unavailable
from fastdiff.kernels import cuda_module
from fastdiff.kernels.step.cuda import gather, step
from fastdiff.records import BATCH_ROW, TABLE_ROW

from ..batches import (  # noqa: TID252
    OUTPUT_DTYPES,
    Batch,
    assert_same_bits,
    random_batch,
    rounded,
    run_native,
    run_reference,
)
from .running import records, run_cuda

pytestmark = pytest.mark.usefixtures("emulated")

dtypes = st.sampled_from(sorted(OUTPUT_DTYPES))


def padded(batch: Batch, rng: np.random.Generator) -> Batch:
    """The batch with padding between its rows, whose other fields point nowhere."""
    padding = np.zeros(len(batch.rows), BATCH_ROW)
    padding["slot"], padding["cond"], padding["table_row"] = -1, 2**31 - 1, 2**31 - 1
    rows = np.concatenate([batch.rows, padding])
    return replace(batch, rows=rows[rng.permutation(len(rows))])


@settings(
    deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 3),
    n=st.sampled_from([1, 3, 7, 8, 63, 64, 123, 256, 1031]),
    output_dtype=dtypes,
    next_dtype=dtypes,
    shift=st.integers(0, 8),
)
def test_step_has_the_bits_of_the_float32_reference(
    seed: int, rows: int, n: int, output_dtype: str, next_dtype: str, shift: int
) -> None:
    """Every term, guidance, clipping, learned variance, dtype, odd size and alignment."""
    batch = random_batch(seed, rows=rows, n=n, output_dtype=output_dtype, next_dtype=next_dtype)
    if seed % 2:  # rows of an even number of elements, so that wide accesses are possible
        batch = replace(batch, output=np.ascontiguousarray(batch.output[:, : 2 * n]))
    want = rounded(run_reference(batch, np.float32), batch.next_dtype)
    assert_same_bits(run_cuda(batch, shift=shift), want)


def test_step_has_the_bits_of_the_cpu_kernels(schedule: Schedule) -> None:
    """Several blocks to a row, in every order of blocks, warps and lanes."""
    for n in (4096, 5003):
        batch = random_batch(7, rows=3, n=n, output_dtype="bfloat16", next_dtype="float16")
        assert_same_bits(run_cuda(batch), run_native(batch))


@pytest.mark.parametrize("slots", range(16))
def test_every_combination_of_terms(slots: int) -> None:
    batch = random_batch(slots, rows=1, n=72)
    batch.rows["table_row"] = 0
    entry = batch.table[0]
    for j in range(1, 5):
        entry["x"][j] = 0.3 * j if slots >> (j - 1) & 1 else 0
        entry["h"][j] = 0
    for output, noise, written in product((0, 0.4), (0, -0.2), (0, 1, 4)):
        entry["x"][6], entry["h"][6] = output, 0
        entry["x"][7], entry["h"][7] = 0, noise
        entry["dst"] = written
        assert_same_bits(run_cuda(batch), run_reference(batch, np.float32))


@pytest.mark.parametrize("n", [8, 63, 1500])
def test_padding_rows_touch_nothing(n: int) -> None:
    rng = np.random.default_rng(0)
    batch = random_batch(3, rows=3, n=n)
    mixed = padded(batch, rng)
    got, want = run_cuda(mixed), run_reference(batch, np.float32)
    is_padding = mixed.rows["slot"] < 0
    assert (got.flags[is_padding] == 9).all()
    assert (got.flags[~is_padding] == 0).all()
    assert_same_bits(replace(got, flags=want.flags), want)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 63, 2056])
def test_rows_that_are_not_finite_are_flagged(schedule: Schedule, value: float, n: int) -> None:
    """In m, x or v, at either end: that row alone, whatever its flag was, and then no longer."""
    flags = torch.full((3,), 9, dtype=torch.uint8)
    for where, position in product(("m", "x", "v"), {0, n - 1}):
        batch = random_batch(3, rows=3, n=n)
        batch.table["clip"] = 1
        batch.table["x"][:, [6, 7]] = 0, 0.1
        batch.table["w"] = 0.5
        batch.rows["cond"] = [1, 0, 2]
        batch.rows["uncond"] = [3, -1, 4]
        assert run_cuda(batch, flags=flags).flags.tolist() == [0, 0, 0]
        if where == "x":
            batch.state[batch.rows["slot"][1], position] = value
        else:
            batch.output[0, position + (n if where == "v" else 0)] = value
        assert run_cuda(batch, flags=flags).flags.tolist() == [0, 1, 0], (where, position)


def test_a_row_longer_than_its_grid() -> None:
    """2^20 elements are what one round of a row's blocks takes."""
    batch = random_batch(1, rows=1, n=2**20 + 17)
    assert_same_bits(run_cuda(batch), run_native(batch))


def test_step_of_nothing() -> None:
    batch = random_batch(1, rows=2, n=5)
    empty = run_cuda(replace(batch, rows=batch.rows[:0]))
    np.testing.assert_array_equal(empty.state, batch.state)
    table, rows = records(np.zeros(1, TABLE_ROW)), records(np.zeros(1, BATCH_ROW))
    flags = torch.full((1,), 9, dtype=torch.uint8)
    step(table, rows, torch.empty(1, 0), torch.empty(1, 0), flags)
    assert flags.tolist() == [0]


@pytest.mark.parametrize("dtype", OUTPUT_DTYPES.values(), ids=str)
@pytest.mark.parametrize("n", [1, 63, 64, 123, 4100])
def test_gather_copies_each_row_to_its_branches(n: int, dtype: torch.dtype) -> None:
    rng = np.random.default_rng(n)
    batch = padded(random_batch(5, rows=4, n=1), rng)
    used = np.flatnonzero(batch.rows["slot"] >= 0)
    places = rng.permutation(12)
    batch.rows["cond"][used] = places[:4]
    batch.rows["uncond"][used] = np.where([True, False, True, False], places[4:8], -1)
    batch.table["t"] = rng.standard_normal(3)
    next_input = torch.from_numpy(rng.standard_normal((6, n), np.float32)).to(dtype)
    x, t = torch.full((12, n), torch.nan, dtype=dtype), torch.full((12,), torch.nan)
    want_x, want_t = x.clone(), t.clone()
    gather(records(batch.table), records(batch.rows), next_input, x, t)
    for row in batch.rows[used]:
        for e in {int(row["cond"]), int(row["uncond"])} - {-1}:
            want_x[e] = next_input[int(row["slot"])]
            want_t[e] = float(batch.table["t"][row["table_row"]])
    torch.testing.assert_close(x, want_x, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(t, want_t, rtol=0, atol=0, equal_nan=True)


def arguments() -> dict[str, torch.Tensor]:
    state = torch.zeros(2, 6)
    return {
        "table": records(np.zeros(1, TABLE_ROW)),
        "rows": records(np.zeros(1, BATCH_ROW)),
        "state": state,
        "output": state.clone(),
        "flags": torch.zeros(1, dtype=torch.uint8),
        "history": torch.zeros(2, 2, 6),
        "next_input": state.half(),
        "denoised": state.clone(),
    }


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("state", torch.zeros(2, 6, dtype=torch.float64), InvalidDtype),
        ("state", torch.zeros(6, 2).T, InvalidArgument),
        ("state", torch.zeros(2, 6, device="meta"), Unavailable),
        ("output", torch.zeros(2, 5), InvalidShape),
        ("output", torch.zeros(2, 6, dtype=torch.int32), InvalidDtype),
        ("table", torch.zeros(1, 95, dtype=torch.uint8), InvalidShape),
        ("rows", torch.zeros(65_536, 40, dtype=torch.uint8), InvalidShape),
        ("rows", torch.zeros(44, dtype=torch.uint8)[4:].view(1, 40), InvalidArgument),
        ("flags", torch.zeros(2, dtype=torch.uint8), InvalidShape),
        ("history", torch.zeros(5, 2, 6), InvalidShape),
        ("next_input", torch.zeros(1, 6), InvalidShape),
        ("denoised", torch.zeros(2, 6, device="meta"), InvalidArgument),
    ],
)
def test_arguments_that_do_not_fit_are_refused(
    name: str, value: torch.Tensor, error: type[Exception]
) -> None:
    step(**arguments())
    with pytest.raises(error):
        step(**{**arguments(), name: value})


def test_faults_of_a_launch_are_errors(emulated: Library) -> None:
    """A table row outside of memory; on a GPU the runtime would report it.

    Where the address is beyond what a processor can form, the system does not tell it.
    """
    batch = random_batch(1, rows=1, n=8)
    batch.rows["table_row"] = 2**31 - 1
    with pytest.raises(Unavailable, match=r"the CUDA kernel step: touches memory at (0x|\(nil\))"):
        run_cuda(batch)
    assert issubclass(KernelFault, AssertionError)
    assert cuda_module.status() is None
