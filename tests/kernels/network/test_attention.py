from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdiff import _native

from .operands import EPS, Array, beside, heads, only_its_own


@dataclass
class Case:
    """Attention of random tokens; the heads of a token lie beside each other."""

    images: int
    heads: int
    queries: int
    keys: int
    depth: int
    value_depth: int

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.keys)
        self.q = self._tokens(rng, self.queries, self.depth)
        self.k = self._tokens(rng, self.keys, self.depth)
        self.v = self._tokens(rng, self.keys, self.value_depth)
        self.scale = self.depth**-0.5

    def _tokens(self, rng: np.random.Generator, tokens: int, depth: int) -> Array:
        array = beside(rng, (self.images, tokens, self.heads * depth))
        return np.lib.stride_tricks.as_strided(
            array,
            (self.images, tokens, self.heads, depth),
            (*array.strides[:2], depth * array.itemsize, array.itemsize),
        )

    def run(
        self, level: str, threads: int = 1, algorithm: str = "direct", **options: bool
    ) -> Array:
        """Return (images, queries, heads * value_depth)."""
        y = beside(None, (self.images, self.queries, self.heads * self.value_depth))
        image, token = (n // y.itemsize for n in y.strides[:2])
        plan = _native.NetworkPlan(level)
        plan.attention(
            "attention", q=heads(self.q), k=heads(self.k), v=heads(self.v),
            y=(y.ctypes.data, image, self.value_depth, token), images=self.images,
            heads=self.heads, queries=self.queries, keys=self.keys, depth=self.depth,
            value_depth=self.value_depth, scale=self.scale, algorithm=algorithm,
            **options,
        )  # fmt: skip
        plan.run(threads)
        assert only_its_own(y)
        return y

    def exact(self) -> tuple[NDArray[np.float64], float]:
        """Return attention in float64, and the greatest score."""
        q, k, v = (a.astype(np.float64) for a in (self.q, self.k, self.v))
        scores = np.einsum("bqhd,bkhd->bhqk", q, k) * self.scale
        p = np.exp(scores - scores.max(axis=-1, keepdims=True))
        y = np.einsum("bhqk,bkhd->bqhd", p / p.sum(axis=-1, keepdims=True), v)
        return y.reshape(*y.shape[:2], -1), float(np.abs(scores).max())

    def check(self, got: Array) -> None:
        want, score = self.exact()
        # Roundings of a score change its probability by as much; the rest are those of two sums.
        bound = EPS * (8 * score + np.sqrt(self.keys) + 8) * np.abs(self.v).max()
        assert np.abs(got - want).max() <= bound


CASES = [
    Case(1, 1, 1, 1, 1, 1),
    Case(2, 3, 7, 63, 33, 20),
    Case(9, 1, 16, 16, 4, 3),
    Case(1, 2, 63, 77, 40, 40),
    Case(1, 2, 33, 7, 64, 64),
    Case(1, 1, 40, 300, 5, 13),
    Case(1, 1, 1030, 19, 8, 8),  # so many queries that units are larger
    Case(1, 1, 35, 20, 600, 700),  # deeper than what a unit keeps on its stack
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_attention_is_its_definition(level: str, case: Case) -> None:
    case.check(case.run(level))


def test_later_keys_may_have_the_greater_scores(level: str) -> None:
    case = Case(1, 1, 5, 400, 8, 8)
    case.q[:] = np.abs(case.q)
    case.k[:] = np.linspace(-9, 9, 400)[None, :, None, None] * case.scale

    case.check(case.run(level))


def test_scores_beyond_the_range_of_exp_pick_their_value(level: str) -> None:
    case = Case(1, 2, 9, 200, 16, 5)
    case.scale = 1e5

    y = case.run(level)

    scores = np.einsum("bqhd,bkhd->bqhk", case.q, case.k)
    for head in range(2):
        picked = case.v[0, scores[0, :, head].argmax(axis=-1), head]
        np.testing.assert_array_equal(y[0, :, 5 * head : 5 * head + 5], picked)


@pytest.mark.parametrize("algorithm", ["direct", "tiles"])
def test_infinitely_small_scores_have_no_share(level: str, algorithm: str) -> None:
    case = Case(4, 1, 5, 300, 8, 8)
    case.q[:] = np.abs(case.q)
    case.v[:] = 3
    case.k[0, :200] = -np.inf  # a whole block of keys, and then others
    case.k[1] = -np.inf
    case.k[2, 299] = np.nan

    for nan, nothing in ((False, 0), (True, np.nan)):  # torch's operator, and its softmax
        y = case.run(level, algorithm=algorithm, nan_without_shares=nan)
        np.testing.assert_allclose(y[[0, 3]], 3, rtol=1e-5)
        np.testing.assert_array_equal(y[1], np.full_like(y[1], nothing))
        assert np.isnan(y[2]).all()


def test_an_image_has_the_same_bits_in_any_batch_and_with_any_threads(level: str) -> None:
    case = Case(9, 2, 40, 150, 20, 12)
    case.q[3] = np.nan  # an image that went wrong harms itself alone
    together = case.run(level)

    assert np.isnan(together[3]).all()
    for image in (0, 5):
        alone = Case(1, 2, 40, 150, 20, 12)
        alone.q, alone.k, alone.v = (a[image : image + 1] for a in (case.q, case.k, case.v))
        np.testing.assert_array_equal(alone.run(level, threads=3)[0], together[image])
