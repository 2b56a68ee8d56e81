from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape
from fastdiff.kernels import triton_module
from fastdiff.kernels.step.triton import gather, step
from fastdiff.records import BATCH_ROW

from ...batches import (  # noqa: TID252
    OUTPUT_DTYPES,
    Batch,
    Result,
    assert_same_bits,
    random_batch,
    run_native,
)
from .device import DEVICE, INTERPRETING, on_device, record_bytes

UNTOUCHED = 7


def padded(rows: NDArray[np.void]) -> NDArray[np.void]:
    """The rows with a padding row, full of indices out of range, before each."""
    padding = np.full(len(rows) * BATCH_ROW.itemsize, 0x7F, np.uint8).view(BATCH_ROW)
    padding["slot"] = -1
    return np.stack([padding, rows], axis=1).reshape(-1)


def run_triton(batch: Batch, flags: torch.Tensor | None = None) -> Result:
    """The Triton step on fresh arrays, with padding rows; what it does not write stays NaN."""
    state, history = on_device(batch.state), on_device(batch.history)
    denoised = torch.full_like(state, torch.nan)
    next_input = torch.full_like(state, torch.nan, dtype=batch.next_dtype)
    if flags is None:
        flags = torch.full((2 * len(batch.rows),), UNTOUCHED, dtype=torch.uint8, device=DEVICE)
    output = on_device(batch.output).to(batch.output_dtype)
    table, rows = record_bytes(batch.table), record_bytes(padded(batch.rows))
    with np.errstate(all="ignore"):  # the interpreter computes in NumPy
        step(table, rows, state, output, flags, history, next_input, denoised)
    assert (flags[::2] == UNTOUCHED).all()
    arrays = (flags[1::2], state, history, denoised, next_input.float())
    return Result(*(array.cpu().numpy().copy() for array in arrays))


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several programs a row in the interpreter too."""
    monkeypatch.setattr(triton_module, "INTERPRETED_BLOCK", 64)


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 3),
    n=st.sampled_from([1, 16, 63, 123, 257]),
    chunk=st.sampled_from([64, 1 << 16]),
    output_dtype=st.sampled_from(sorted(OUTPUT_DTYPES)),
    next_dtype=st.sampled_from(["float16", "float32"]),
)
def test_step_has_the_bits_of_the_compiled_step(
    seed: int, rows: int, n: int, chunk: int, output_dtype: str, next_dtype: str
) -> None:
    """Rows at random table rows: guidance, clipping, history, noise and learned variance."""
    batch = random_batch(seed, rows=rows, n=n, output_dtype=output_dtype, next_dtype=next_dtype)
    with patch.object(triton_module, "INTERPRETED_BLOCK", chunk):
        assert_same_bits(run_triton(batch), run_native(batch))


def test_large_rows_have_the_bits_of_the_compiled_step() -> None:
    batch = random_batch(2, rows=3, n=66_003, output_dtype="bfloat16", next_dtype="float16")
    assert_same_bits(run_triton(batch), run_native(batch))


def test_bfloat16_inputs_are_rounded() -> None:
    """Triton's interpreter cuts where a GPU rounds (cvt.rn.bf16, see test_binaries.py)."""
    batch = random_batch(5, rows=3, n=123, next_dtype="bfloat16")
    want = run_native(batch)
    if INTERPRETING:
        exact = run_native(replace(batch, next_dtype=torch.float32)).next_input
        cut = (exact.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        want = replace(want, next_input=cut)
    assert_same_bits(run_triton(batch), want)


def test_every_set_of_history_slots() -> None:
    """All sets of history slots, with m, z, v and the written slot in turn, one row each."""
    batch = random_batch(3, rows=16, n=67)
    batch.table = np.tile(batch.table[:1], 16)
    batch.rows["table_row"] = np.arange(16)
    choices = product((0, 0.4), (0, -0.2), (0, 1, 4), (0, 0.5))
    for slots, (entry, (m, z, dst, w)) in enumerate(zip(batch.table, choices, strict=False)):
        for name in ("x", "h"):
            entry[name][1:5] = [0.3 * j * (slots >> (j - 1) & 1) for j in range(1, 5)]
        entry["x"][[6, 7]] = m, 0
        entry["h"][[6, 7]] = 0, z
        entry["dst"], entry["w"] = dst, w
    assert_same_bits(run_triton(batch), run_native(batch))


@pytest.mark.usefixtures("small_chunks")
def test_chunks_agree_on_one_flag_each_time() -> None:
    """A value in any chunk sets the flag of its row, and the next launch starts anew."""
    batch = random_batch(3, rows=4, n=129)
    batch.table["clip"] = 1
    batch.table["x"][:, [6, 7]] = 0, 0.1
    batch.table["h"][:, 6] = 0
    batch.table["w"] = 0.5
    batch.rows["cond"], batch.rows["uncond"] = [0, 1, 2, 3], [4, -1, 4, -1]
    bad = replace(batch, output=batch.output.copy(), state=batch.state.copy())
    bad.output[1, 128] = np.inf  # m, where clipping hides it
    bad.state[bad.rows["slot"][2], 0] = np.inf
    bad.output[3, 129 + 64] = -np.inf  # v
    flags = torch.full((8,), UNTOUCHED, dtype=torch.uint8, device=DEVICE)
    got = run_triton(bad, flags)
    assert got.flags.tolist() == [0, 1, 1, 1]
    assert_same_bits(got, run_native(bad))
    got = run_triton(batch, flags)
    assert got.flags.tolist() == [0, 0, 0, 0]
    assert_same_bits(got, run_native(batch))


@pytest.mark.parametrize("h_m", [0, 0.3])
def test_a_term_counts_in_both_sums_or_in_none(h_m: float) -> None:
    """An infinite m that clipping tames: 0 times it is NaN, and x' has that only if h' counts m."""
    batch = random_batch(7, rows=1, n=16)
    batch.table["clip"] = 1
    for name, coefficient in (("x", 0), ("h", h_m)):
        batch.table[name][:, 6] = coefficient
    batch.output[batch.rows["cond"][0], 3] = np.inf
    batch.rows["uncond"] = -1
    got = run_triton(batch)
    assert_same_bits(got, run_native(batch))
    assert np.isnan(got.state[batch.rows["slot"][0], 3]) == (h_m != 0)


def test_what_is_not_used_is_not_read() -> None:
    """NaN in unread history slots, idle slots and unused outputs never spreads."""
    batch = random_batch(11, rows=2, n=63)
    batch.table["w"] = 0
    batch.table["dst"] = 2
    for name in ("x", "h"):
        batch.table[name][:, [1, 2, 4]] = 0
    idle = np.setdiff1d(np.arange(len(batch.state)), batch.rows["slot"])
    batch.output[:, 63:] = np.nan
    batch.state[idle] = np.nan
    batch.history[[0, 1, 3]] = np.nan
    got = run_triton(batch)
    assert got.flags.tolist() == [0, 0]
    assert_same_bits(got, run_native(batch))
    assert np.isfinite(got.state[batch.rows["slot"]]).all()


def test_optional_tensors_may_be_absent() -> None:
    batch = random_batch(13, rows=2, n=65)
    for name in ("x", "h"):
        batch.table[name][:, 1:5] = 0
    batch.table["dst"] = 0
    state, flags = on_device(batch.state), torch.zeros(2, dtype=torch.uint8, device=DEVICE)
    output = on_device(batch.output)
    step(record_bytes(batch.table), record_bytes(batch.rows), state, output, flags)
    np.testing.assert_array_equal(state.cpu().numpy(), run_native(batch).state)


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("dtype", OUTPUT_DTYPES.values(), ids=OUTPUT_DTYPES)
def test_gather_collects_both_branches(dtype: torch.dtype) -> None:
    batch = random_batch(17, rows=3, n=123)
    batch.table["t"] = [0.25, 17, 999]
    batch.rows["cond"], batch.rows["uncond"] = [4, 0, 2], [1, -1, 5]
    next_input = on_device(batch.state).to(dtype)
    x = torch.full((7, 123), torch.nan, dtype=dtype, device=DEVICE)
    t = torch.full((7,), torch.nan, device=DEVICE)
    gather(record_bytes(batch.table), record_bytes(padded(batch.rows)), next_input, x, t)
    want_x, want_t = torch.full_like(x, torch.nan), torch.full_like(t, torch.nan)
    for row in batch.rows:
        for target in (row["cond"], row["uncond"]):
            if target >= 0:
                want_x[target] = next_input[row["slot"]]
                want_t[target] = float(batch.table["t"][row["table_row"]])
    torch.testing.assert_close(x, want_x, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(t, want_t, rtol=0, atol=0, equal_nan=True)


def test_nothing_happens_to_an_empty_batch() -> None:
    batch = random_batch(1, rows=1, n=5)
    assert run_triton(replace(batch, rows=batch.rows[:0])).flags.size == 0


def test_tensors_that_do_not_fit_raise() -> None:
    good: dict[str, Any] = {
        "table": torch.zeros(1, 96, dtype=torch.uint8),
        "rows": torch.zeros(2, 40, dtype=torch.uint8),
        "state": torch.zeros(3, 5),
        "output": torch.zeros(2, 5),
        "flags": torch.zeros(2, dtype=torch.uint8),
        "history": torch.zeros(1, 3, 5),
    }
    shifted = torch.zeros(81, dtype=torch.uint8, device=DEVICE)[1:].view(2, 40)
    for name, tensor, error, message in (
        ("table", torch.zeros(1, 95, dtype=torch.uint8), InvalidShape, r"\(any, 96\)"),
        ("rows", torch.zeros(2, 40), InvalidDtype, "expected torch.uint8"),
        ("rows", shifted, InvalidArgument, "multiple of 8 bytes"),
        ("state", torch.zeros(15), InvalidShape, r"\(any, any\), got \(15,\)"),
        ("state", torch.zeros(3, 0), InvalidShape, "1 to .* elements, got 0"),
        ("output", torch.zeros(2, 4), InvalidShape, "rows of at least 5 elements, got 4"),
        ("flags", torch.zeros(3, dtype=torch.uint8), InvalidShape, r"flags: .*\(2\)"),
        ("history", torch.zeros(5, 3, 5), InvalidShape, "at most 4 slots, got 5"),
        ("next_input", torch.zeros(3, 5).double(), InvalidDtype, "next_input"),
        ("denoised", torch.zeros(5, 3).t(), InvalidArgument, "denoised: .* contiguous"),
        ("output", torch.zeros(2, 5, device="meta"), InvalidArgument, f"on {DEVICE}.*, got meta"),
    ):
        arguments = {**good, name: tensor}
        with pytest.raises(error, match=message):
            step(**{k: v if v.is_meta else v.to(DEVICE) for k, v in arguments.items()})
