"""The passes around the step against NumPy, row by row."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdiff.kernels.passes import Kept, adapt, adaptation, blend
from fastdiff.records import BATCH_ROW, TABLE_ROW
from fastdiff.sampling import Thresholding, rescale_factors

from .batches import OUTPUT_DTYPES, random_batch

WISHES = st.fixed_dictionaries(
    {
        "rescale": st.sampled_from([0.0, 0.3, 1.0]),
        "ratio": st.sampled_from([None, 1e-6, 0.5, 0.995, 1.0]),
        "limit": st.sampled_from([1.0, 1.3, 100.0]),
    }
)


def as_bytes(records):
    return torch.from_numpy(records.view(np.uint8).reshape(len(records), -1).copy())


def as_records(tensor, dtype):
    return tensor.numpy().reshape(-1).view(dtype)


def padded(rows, count):
    """`rows` and padding as an earlier, larger batch leaves it: every index is out of range."""
    padding = np.full(count, -1, BATCH_ROW)
    padding["table_row"] = padding["cond"] = padding["uncond"] = 10**6
    padding["slot"] = -1
    return np.concatenate([rows, padding])


def run_adapt(batch, wishes, padding=0):
    n = batch.state.shape[1]
    table = torch.tensor([adaptation(**wish, numel=n) for wish in wishes], dtype=torch.float64)
    own, records = adapt(
        as_bytes(batch.table),
        as_bytes(padded(batch.rows, padding)),
        table,
        torch.from_numpy(batch.state),
        torch.from_numpy(batch.output).to(batch.output_dtype),
        rescale=any(wish["rescale"] for wish in wishes),
        threshold=any(wish["ratio"] is not None for wish in wishes),
    )
    return as_records(own, TABLE_ROW), as_records(records, BATCH_ROW)


def expected_row(batch, row, wish):
    """The adapted table row in float64, and its k and s."""
    n = batch.state.shape[1]
    entry = batch.table[row["table_row"]]
    m_c = batch.output[row["cond"], None, :n].astype(np.float64)
    m, k, s = m_c, 1.0, 1.0
    if row["uncond"] >= 0:
        m_u = batch.output[row["uncond"], None, :n].astype(np.float64)
        m = m_u + row["guidance"] * (m_c - m_u)
        k = rescale_factors(m_c, m, wish["rescale"])[0]
    x = batch.state[row["slot"], None].astype(np.float64)
    if wish["ratio"] is not None:
        D = entry["p"] * x + entry["q"] * k * m
        s = Thresholding(wish["ratio"], wish["limit"]).limits(D)[0]
    want = {name: entry[name].astype(np.float64) for name in ("x", "h", "p", "q", "clip")}
    want["x"][6] *= k
    want["h"][6] *= k
    want["p"], want["q"] = want["p"] / s, want["q"] * k / s
    want["clip"] = want["clip"] if wish["ratio"] is None else 1.0
    return want


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 999),
    n=st.sampled_from([2, 3, 63, 64, 123]),
    dtype=st.sampled_from(sorted(OUTPUT_DTYPES)),
    wishes=st.lists(WISHES, min_size=6, max_size=6),
    padding=st.integers(0, 3),
)
def test_adapted_rows_are_those_of_numpy(seed, n, dtype, wishes, padding):
    batch = random_batch(seed, rows=4, n=n, output_dtype=dtype)
    table, rows = run_adapt(batch, wishes, padding)
    assert rows["table_row"].tolist() == list(range(4 + padding))
    for name in set(BATCH_ROW.names) - {"table_row"}:
        np.testing.assert_array_equal(rows[name][:4], batch.rows[name])
    assert (rows["slot"][4:] == -1).all()
    for row, entry in zip(batch.rows, table, strict=False):
        wish, before = wishes[row["slot"]], batch.table[row["table_row"]]
        for name, want in expected_row(batch, row, wish).items():
            np.testing.assert_allclose(entry[name], want, rtol=2e-5, atol=1e-7)
        for name in ("c_in_next", "t", "w", "dst"):
            assert entry[name] == before[name]
        if wish["ratio"] is None and (wish["rescale"] == 0 or row["uncond"] < 0):
            assert entry.tobytes() == before.tobytes()


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), n=st.integers(2, 200), wish=WISHES)
def test_a_row_has_the_same_bits_alone_and_in_a_batch(seed, n, wish):
    batch = random_batch(seed, rows=5, n=n)
    together, _ = run_adapt(batch, [wish] * 7, padding=2)
    for i in range(5):
        rows = batch.rows[i : i + 1]
        alone, _ = run_adapt(type(batch)(**{**vars(batch), "rows": rows}), [wish] * 7)
        assert alone[0].tobytes() == together[i].tobytes()


def test_the_quantile_is_that_of_torch():
    """Of whole numbers, which thirds and ends of ranks lie between."""
    values = torch.tensor([[3.0, 9.0, 1.0, 5.0, 7.0]])
    row = np.zeros(1, BATCH_ROW)
    row["uncond"] = -1
    entry = np.zeros(1, TABLE_ROW)
    entry["p"], entry["clip"] = 1.0, np.inf
    for ratio in (0.0, 0.1, 1 / 3, 0.5, 0.9, 1.0):
        wish = torch.tensor([adaptation(ratio=ratio, limit=1e3, numel=5)], dtype=torch.float64)
        own, _ = adapt(
            as_bytes(entry), as_bytes(row), wish, values, 0 * values, rescale=False, threshold=True
        )
        s = 1.0 / as_records(own, TABLE_ROW)["p"][0]
        assert s == pytest.approx(float(torch.quantile(values, ratio)), rel=1e-6)


def test_what_is_not_finite_reaches_the_step():
    """An infinite k would vanish in a clip; a constant output is left as it is."""
    batch = random_batch(3, rows=2, n=5)
    batch.rows["cond"], batch.rows["uncond"], batch.rows["guidance"] = [0, 1], 2, 2.0
    batch.output[0], batch.output[1:] = 1e30 * np.arange(11), 0.25
    wish = {"rescale": 1.0, "ratio": None, "limit": 1.0}
    batch.output[2] = batch.output[1]
    table, _ = run_adapt(batch, [wish] * 4)
    assert np.isnan(table["q"][0])
    assert table["q"][1] == batch.table["q"][batch.rows["table_row"][1]]


@pytest.mark.parametrize("dtype", sorted(OUTPUT_DTYPES))
@pytest.mark.parametrize("padding", [0, 3])
def test_blending_keeps_the_known_part_and_touches_nothing_else(dtype, padding):
    batch = random_batch(5, rows=4, n=63)
    slots, n = batch.state.shape[0] + 1, 63  # the last one is nobody's
    rng = np.random.default_rng(6)
    active = np.zeros(slots, bool)
    active[batch.rows["slot"][[0, 2]]] = True
    mask, images, noise = np.full((3, slots, n), np.nan, np.float32)
    mask[active] = np.clip(rng.normal(0.5, 0.6, (2, n)), 0, 1)
    images[active], noise[active] = rng.standard_normal((2, 2, n))
    levels = rng.random((3, 2)).astype(np.float32)
    state = rng.standard_normal((slots, n)).astype(np.float32)
    inputs = torch.from_numpy(rng.standard_normal((slots, n))).to(OUTPUT_DTYPES[dtype])
    x, fed = torch.from_numpy(state.copy()), inputs.clone()
    kept = Kept(*(torch.from_numpy(array) for array in (active, mask, images, noise)))
    rows = padded(batch.rows, padding)
    blend(as_bytes(batch.table), torch.from_numpy(levels), as_bytes(rows), kept, x, fed)
    for row in batch.rows:
        slot, level = row["slot"], levels[row["table_row"]]
        if not active[slot]:
            continue
        known = level[0] * images[slot] + level[1] * noise[slot]
        want = mask[slot] * state[slot] + (np.float32(1) - mask[slot]) * known
        np.testing.assert_array_equal(x[slot], want)
        c_in = batch.table["c_in_next"][row["table_row"]]
        following = torch.from_numpy(c_in * want).to(inputs.dtype)
        assert torch.equal(fed[slot], following)
        assert np.array_equal(x[slot][mask[slot] == 1], state[slot][mask[slot] == 1])
    assert torch.equal(x[~active], torch.from_numpy(state)[~active])
    assert torch.equal(fed[~active], inputs[~active])
