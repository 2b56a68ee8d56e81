from __future__ import annotations

from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdiff import kernels
from fastdiff.kernels.noise import normal
from fastdiff.kernels.step import step
from fastdiff.records import BATCH_ROW, TABLE_ROW

from .batches import (
    OUTPUT_DTYPES,
    assert_same_bits,
    random_batch,
    rounded,
    run_native,
    run_reference,
)

USABLE = [name for name, reason in kernels.cpu_levels().items() if reason is None]
SIZES = [1, 3, 63, 64, 65, 123, 4097]
dtypes = st.sampled_from(sorted(OUTPUT_DTYPES))


@settings(deadline=None, max_examples=120)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.integers(1, 5),
    n=st.sampled_from(SIZES),
    output_dtype=dtypes,
    next_dtype=dtypes,
)
def test_step_has_the_bits_of_the_float32_reference(
    seed: int, rows: int, n: int, output_dtype: str, next_dtype: str
) -> None:
    batch = random_batch(seed, rows=rows, n=n, output_dtype=output_dtype, next_dtype=next_dtype)
    want = rounded(run_reference(batch, np.float32), batch.next_dtype)
    for level in USABLE:
        with kernels.use_level(level):
            assert_same_bits(run_native(batch), want)


def test_step_has_the_bits_of_the_float32_reference_on_threads(level: str, threads: int) -> None:
    batch = random_batch(7, rows=5, n=30_011, output_dtype="bfloat16", next_dtype="float16")
    want = rounded(run_reference(batch, np.float32), batch.next_dtype)
    assert_same_bits(run_native(batch), want)


@pytest.mark.parametrize("slots", range(16))
def test_every_combination_of_terms(level: str, slots: int) -> None:
    """All history slots x m x z x written slot, which select the compiled variants."""
    batch = random_batch(slots, rows=1, n=67)
    batch.rows["table_row"] = 0
    entry = batch.table[0]
    for j in range(1, 5):
        entry["x"][j] = 0.3 * j if slots >> (j - 1) & 1 else 0
        entry["h"][j] = 0
    for output, noise, written in product((0, 0.4), (0, -0.2), (0, 1, 4)):
        entry["x"][6], entry["h"][6] = output, 0
        entry["x"][7], entry["h"][7] = 0, noise
        entry["dst"] = written
        assert_same_bits(run_native(batch), run_reference(batch, np.float32))


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), n=st.sampled_from([1, 63, 123]))
def test_step_is_close_to_float64(seed: int, n: int) -> None:
    """Each term is rounded a few times: the error is below 16 float32 ulp of the sum of terms."""
    batch = random_batch(seed, rows=3, n=n)
    got, want = run_native(batch), run_reference(batch, np.float64)
    magnitude = run_magnitude(batch)
    assert got.flags.tolist() == want.flags.tolist()
    for name in ("state", "history", "denoised", "next_input"):
        error = np.abs(getattr(got, name) - getattr(want, name))
        assert np.nanmax(error / magnitude, initial=0) < 16 * 2**-24, name


def run_magnitude(batch: Any) -> float:
    """A bound of the sum of the absolute values of the terms of any row."""
    m = np.abs(batch.output).max() * (1 + 2 * np.abs(batch.rows["guidance"]).max())
    x = np.abs(batch.state).max()
    d = np.abs(batch.table["p"]).max() * x + np.abs(batch.table["q"]).max() * m
    z = 6.7 * np.exp(np.abs(batch.table["w"]).max() * np.abs(batch.output).max())
    largest = max(np.abs(batch.table["x"]).max(), np.abs(batch.table["h"]).max())
    scale = max(1.0, np.abs(batch.table["c_in_next"]).max())
    return float(1 + scale * largest * (x + d + m + 4 * np.abs(batch.history).max() + z))


def test_update_known_answers(level: str, known_answers: dict[str, Any]) -> None:
    """p = 0 and q = 1 make D the output; m and H travel as history slots 1 and 2."""
    case = known_answers["update"]
    a, b, e, h, s = np.array([int(c, 16) for c in case["coefficients"]], np.uint32).view(np.float32)
    table, rows = np.zeros(1, TABLE_ROW), np.zeros(1, BATCH_ROW)
    table["x"] = [a, e, h, 0, 0, b, 0, s]
    table["q"], table["clip"], table["c_in_next"] = 1, np.inf, 1
    rows["seed"], rows["uncond"] = 1, -1
    x, D, m, H = (torch.from_numpy(normal(1, draw=draw, count=10))[None] for draw in range(4))
    for name, dtype in OUTPUT_DTYPES.items():
        state, next_input = x.to(dtype).float().clone(), torch.empty(1, 10, dtype=dtype)
        flags = step(
            table=table,
            rows=rows,
            state=state,
            output=D.to(dtype),
            history=torch.stack([m.to(dtype).float(), H]),
            next_input=next_input,
        )
        bits = next_input.view(torch.int32 if dtype == torch.float32 else torch.int16).numpy()[0]
        unsigned = bits.view(np.uint32 if dtype == torch.float32 else np.uint16)
        assert [int(v) for v in unsigned] == [int(v, 16) for v in case[name]]
        assert not flags.any()


@pytest.mark.parametrize("n", SIZES)
def test_what_is_not_used_is_not_read(level: str, n: int) -> None:
    """NaN in unread history slots, slots of other rows and unused outputs never spreads."""
    batch = random_batch(11, rows=2, n=n)
    batch.table["w"] = 0
    batch.table["dst"] = 2
    for name in ("x", "h"):
        batch.table[name][:, [1, 2, 4]] = 0
    want = run_reference(batch, np.float32)
    used = np.zeros(len(batch.output), bool)
    used[batch.rows["cond"]] = True
    used[batch.rows["uncond"][batch.rows["uncond"] >= 0]] = True
    batch.output[~used] = np.nan
    batch.output[:, n:] = np.nan
    idle = np.setdiff1d(np.arange(len(batch.state)), batch.rows["slot"])
    batch.state[idle] = np.nan
    batch.history[[0, 1, 3]] = np.nan
    batch.history[2, idle] = np.nan
    got = run_native(batch)
    assert got.flags.tolist() == [0, 0]
    for slot in batch.rows["slot"]:
        np.testing.assert_array_equal(got.state[slot], want.state[slot])
        np.testing.assert_array_equal(got.history[1, slot], want.history[1, slot])
    assert np.isnan(got.history[[0, 3]]).all()
    assert np.isnan(got.state[idle]).all()
    assert np.isnan(got.next_input[idle]).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("n", [1, 63, 64, 4097])
def test_rows_that_are_not_finite_are_flagged(level: str, value: float, n: int) -> None:
    """In m (even where clipping hides it), in x and in v; only in the row that holds it."""
    for where, position in product(("m", "x", "v"), {0, n // 2, n - 1}):
        batch = random_batch(3, rows=3, n=n)
        batch.table["clip"] = 1
        batch.table["x"][:, [6, 7]] = 0, 0.1
        batch.table["w"] = 0.5
        batch.rows["cond"] = [1, 0, 2]
        batch.rows["uncond"] = [3, -1, 4]
        if where == "x":
            batch.state[batch.rows["slot"][1], position] = value
        else:
            batch.output[0, position + (n if where == "v" else 0)] = value
        assert run_native(batch).flags.tolist() == [0, 1, 0], (where, position)
        with np.errstate(all="ignore"):
            assert run_reference(batch, np.float32).flags.tolist() == [0, 1, 0]


def test_unused_v_is_not_flagged(level: str) -> None:
    batch = random_batch(3, rows=1, n=65)
    batch.table["w"] = 0
    batch.output[:, 65:] = np.nan
    assert run_native(batch).flags.tolist() == [0]


def test_overflow_of_the_state_is_flagged(level: str) -> None:
    batch = random_batch(5, rows=1, n=65)
    batch.table["x"][:, 0] = 4
    batch.state[batch.rows["slot"][0], 64] = 3e38
    assert run_native(batch).flags.tolist() == [1]


def test_infinite_clip_changes_nothing(level: str) -> None:
    batch = random_batch(9, rows=2, n=129)
    batch.table["clip"] = np.inf
    unclipped = run_native(batch)
    batch.table["clip"] = np.finfo(np.float32).max
    assert_same_bits(run_native(batch), unclipped)


def test_rows_give_the_same_bits_alone_and_in_any_order() -> None:
    batch = random_batch(21, rows=4, n=123)
    together = run_native(batch)
    reversed_order = run_native(replace(batch, rows=batch.rows[::-1].copy()))
    np.testing.assert_array_equal(reversed_order.state, together.state)
    for index, slot in enumerate(batch.rows["slot"]):
        alone = run_native(replace(batch, rows=batch.rows[index : index + 1]))
        np.testing.assert_array_equal(alone.state[slot], together.state[slot])


def test_empty_batches_and_rows_do_nothing(level: str) -> None:
    batch = random_batch(1, rows=2, n=5)
    empty = replace(batch, rows=batch.rows[:0])
    got = run_native(empty)
    assert got.flags.size == 0
    np.testing.assert_array_equal(got.state, batch.state)
    one_row = {"table": np.zeros(1, TABLE_ROW), "rows": np.zeros(1, BATCH_ROW)}
    assert step(**one_row, state=torch.empty(1, 0), output=torch.empty(1, 0)).tolist() == [0]


def test_arguments_may_be_numpy_arrays(level: str) -> None:
    batch = random_batch(13, rows=2, n=63)
    state, history = batch.state.copy(), batch.history.copy()
    next_input = np.empty_like(state, np.float16)
    step(
        table=batch.table,
        rows=batch.rows,
        state=state,
        output=batch.output,
        history=history,
        next_input=next_input,
    )
    want = run_reference(batch, np.float32)
    np.testing.assert_array_equal(state, want.state)
    slots = batch.rows["slot"]
    np.testing.assert_array_equal(next_input[slots], want.next_input[slots].astype(np.float16))
