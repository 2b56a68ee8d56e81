"""Attention in tiles: operands and probabilities are rounded to bfloat16, all else is float32."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastdiff.errors import InvalidArgument

from .operands import EPS, Array
from .test_attention import Case

HALF_EPS = 2.0**-8  # half a unit in the last place of 1 in bfloat16
LOG2_E = np.float32(np.log2(np.e))


def bfloat16(array: Array) -> Array:
    return torch.from_numpy(array.copy()).bfloat16().float().numpy()


def rounded(case: Case) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return attention of the rounded operands in float64, and what rounding may change of it.

    Where probabilities p are off by a part of HALF_EPS each, and add up to 1 again, their mean of
    the values v is off by HALF_EPS times the mean of abs(v - mean).
    """
    scale = np.float32(case.scale) * LOG2_E
    q, k, v = (bfloat16(a).astype(np.float64) for a in (case.q * scale, case.k, case.v))
    scores = np.einsum("bqhd,bkhd->bhqk", q, k)
    p = np.exp2(scores - scores.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    y = np.einsum("bhqk,bkhd->bqhd", p, v)
    distance = abs(v.transpose(0, 2, 1, 3)[:, :, None] - y.transpose(0, 2, 1, 3)[:, :, :, None])
    bound = HALF_EPS * np.einsum("bhqk,bhqkd->bqhd", p, distance)
    bound += EPS * (8 * abs(scores).max() + np.sqrt(case.keys) + 8) * abs(v).max()
    shape = (*y.shape[:2], -1)
    return y.reshape(shape), 1.01 * bound.reshape(shape)


def check(case: Case, got: Array) -> None:
    want, bound = rounded(case)
    assert (abs(got - want) <= bound).all()


def relative(got: NDArray[np.floating], want: NDArray[np.floating]) -> float:
    return float(np.linalg.norm(got - want) / np.linalg.norm(want))


CASES = [
    Case(1, 1, 1, 1, 3, 1),
    Case(2, 3, 7, 63, 33, 20),
    Case(9, 1, 16, 16, 8, 8),
    Case(1, 2, 63, 77, 40, 40),  # the keys are those of a prompt
    Case(1, 2, 33, 7, 64, 64),
    Case(2, 1, 256, 33, 64, 96),
    Case(1, 1, 40, 300, 5, 13),  # more than a block of keys
    Case(1, 1, 63, 600, 160, 160),
    Case(1, 1, 1030, 19, 8, 8),  # so many queries that units are larger
    Case(1, 1, 35, 20, 600, 1000),  # deeper than what a unit keeps on its stack
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_in_tiles_is_its_definition(level: str, case: Case) -> None:
    got = case.run(level, algorithm="tiles")

    check(case, got)
    assert relative(got, case.exact()[0]) < HALF_EPS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_levels_agree_but_for_roundings_of_probabilities(level: str, case: Case) -> None:
    got, want = (case.run(name, algorithm="tiles") for name in (level, "portable"))

    assert relative(got, want) < 5e-4


def test_queries_keys_and_values_may_be_parts_of_one_projection(level: str) -> None:
    case = Case(2, 3, 40, 40, 24, 24)
    joined = np.concatenate([case.q, case.k, case.v], axis=2)  # (images, tokens, 3 heads, depth)
    case.q, case.k, case.v = np.split(joined, 3, axis=2)

    check(case, case.run(level, algorithm="tiles"))


def test_keys_behind_the_last_one_count_nothing(level: str) -> None:
    case = Case(1, 1, 9, 45, 16, 8)
    case.q[:], case.k[:] = 100.0, -100.0  # whose scores of 0 would be the greatest

    got = case.run(level, algorithm="tiles")

    mean = bfloat16(case.v).mean(axis=1)
    np.testing.assert_allclose(got, np.broadcast_to(mean[0], got.shape), atol=1e-6)


def test_probabilities_add_up_to_1(level: str) -> None:
    case = Case(1, 2, 33, 77, 40, 6)
    case.v[:] = 1.0

    got = case.run(level, algorithm="tiles")

    np.testing.assert_allclose(got, 1.0, atol=8 * EPS)


def test_later_keys_may_have_the_greater_scores(level: str) -> None:
    case = Case(1, 1, 5, 600, 8, 8)
    case.q[:] = abs(case.q)
    case.k[:] = np.linspace(-9, 9, 600)[None, :, None, None] * case.scale

    check(case, case.run(level, algorithm="tiles"))


def test_scores_beyond_the_range_of_exp_pick_their_value(level: str) -> None:
    case = Case(1, 2, 9, 300, 16, 5)
    case.scale = 2.0**17

    y = case.run(level, algorithm="tiles")

    q, k = bfloat16(case.q * (np.float32(case.scale) * LOG2_E)), bfloat16(case.k)
    scores = np.einsum("bqhd,bkhd->bqhk", q.astype(np.float64), k)
    for head in range(2):
        picked = bfloat16(case.v)[0, scores[0, :, head].argmax(axis=-1), head]
        np.testing.assert_array_equal(y[0, :, 5 * head : 5 * head + 5], picked)


@pytest.mark.parametrize("operand", ["q", "k", "v"])
def test_nan_comes_through_where_it_is_read(level: str, operand: str) -> None:
    case = Case(1, 2, 40, 290, 20, 12)
    getattr(case, operand)[0, 35, 1, 7] = np.nan

    bad = np.isnan(case.run(level, algorithm="tiles").reshape(40, 2, 12))

    want = np.zeros_like(bad)
    want[{"q": (35, 1), "k": (slice(None), 1), "v": (slice(None), 1, 7)}[operand]] = True
    np.testing.assert_array_equal(bad, want)


def test_an_image_has_the_same_bits_in_any_batch_and_with_any_threads(level: str) -> None:
    case = Case(9, 2, 40, 300, 20, 12)
    case.q[3] = np.nan  # an image that went wrong harms itself alone
    together = case.run(level, algorithm="tiles")

    assert np.isnan(together[3]).all()
    for image in (0, 5):
        alone = Case(1, 2, 40, 300, 20, 12)
        alone.q, alone.k, alone.v = (a[image : image + 1] for a in (case.q, case.k, case.v))
        got = alone.run(level, threads=3, algorithm="tiles")
        np.testing.assert_array_equal(got[0], together[image])


def test_another_algorithm_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="expected direct or tiles, got winograd2"):
        Case(1, 1, 1, 1, 1, 1).run("", algorithm="winograd2")
