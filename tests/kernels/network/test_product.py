from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from fastdiff import _native

from .operands import EPS, Array, Exact, beside, only_its_own, strides


@dataclass
class Case:
    """A product of random matrices, whose axes lie in memory in given orders.

    ``a`` and ``b`` name the order of (heads, rows, terms) and (heads, terms, columns), the last one
    side by side.
    """

    images: int
    heads: int
    rows: int
    depth: int
    columns: int
    a: str = "hmk"
    b: str = "hkn"
    scale: float = 1.0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.depth)
        self.left = self._laid_out(rng, "hmk", self.a)
        self.right = self._laid_out(rng, "hkn", self.b)

    def _laid_out(self, rng: np.random.Generator | None, axes: str, order: str) -> Array:
        size = {"h": self.heads, "m": self.rows, "k": self.depth, "n": self.columns}
        array = beside(rng, (self.images, *(size[axis] for axis in order)))
        return array.transpose(0, *(1 + order.index(axis) for axis in axes))

    def run(self, level: str, threads: int = 1) -> Array:
        """Return y, whose heads lie side by side in memory."""
        y = self._laid_out(None, "hmn", "mhn")
        plan = _native.NetworkPlan(level)
        plan.product(
            "product", a=matrix(self.left), a_step=strides(self.left)[3], b=matrix(self.right),
            b_step=strides(self.right)[3], y=matrix(y), images=self.images, heads=self.heads,
            rows=self.rows, depth=self.depth, columns=self.columns, scale=self.scale,
        )  # fmt: skip
        plan.run(threads)
        assert only_its_own(y.transpose(0, 2, 1, 3))
        return y

    def bound(self) -> Exact:
        """Of as many roundings as a sum has terms, half of which cancel."""
        sizes = np.abs(self.left.astype(np.float64)) @ np.abs(self.right)
        return (4 + self.depth) * EPS * abs(self.scale) * sizes


def matrix(array: Array) -> tuple[int, int, int, int]:
    return (array.ctypes.data, *strides(array)[:3])


CASES = [
    Case(1, 1, 1, 1, 1),
    Case(2, 3, 7, 33, 20, scale=0.25),
    Case(9, 1, 16, 16, 4, "mkh", "knh"),  # nothing lies side by side
    Case(1, 2, 63, 40, 77, "mhk", "nhk"),  # scores of attention
    Case(1, 2, 33, 7, 64, "kmh", "khn"),
    Case(1, 1, 101, 300, 5, "hkm", "hnk"),
    Case(2, 1, 50, 3, 290),  # more rows and columns than a unit has
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_product_is_its_definition(level: str, case: Case) -> None:
    y = case.run(level)
    want = case.left.astype(np.float64) @ case.right * case.scale
    assert (np.abs(y - want) <= case.bound()).all()


def test_an_operand_may_be_the_same_for_all_heads(level: str) -> None:
    case = Case(2, 3, 9, 20, 11)
    case.left = np.broadcast_to(case.left[:, :1], case.left.shape)
    y = case.run(level)
    assert (np.abs(y - case.left.astype(np.float64) @ case.right) <= case.bound()).all()


def test_infinity_and_nan_stay_in_their_rows_and_columns(level: str) -> None:
    case = Case(1, 1, 14, 10, 21, b="hnk")
    case.left[0, 0, 3, 4], case.left[0, 0, 5, 1] = np.inf, np.nan
    case.right[0, 0, 2, 19] = np.nan

    y = case.run(level)[0, 0]

    wrong = np.zeros((14, 21), bool)
    wrong[5], wrong[:, 19] = True, True
    np.testing.assert_array_equal(np.isnan(y), wrong)
    signs = np.sign(case.right[0, 0, 4, :19])
    np.testing.assert_array_equal(y[3, :19], signs * np.float32(np.inf))


def test_an_image_has_the_same_bits_in_any_batch_and_with_any_threads(level: str) -> None:
    case = Case(9, 2, 55, 37, 150, "mhk", "nhk")
    together = case.run(level)
    for image in (0, 5):
        alone = Case(1, 2, 55, 37, 150)
        alone.left, alone.right = case.left[image:][:1], case.right[image:][:1]
        np.testing.assert_array_equal(alone.run(level, threads=3)[0], together[image])
