from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from fastdiff import _native
from fastdiff.native.nodes.reduce import REDUCTIONS

from .operands import EPS, Array, Exact, beside, only_its_own, per_image, strides

SUMS = [name for name in REDUCTIONS if name.startswith("sum")]
EXTREMES = [name for name in REDUCTIONS if name not in SUMS]


def run(level: str, x: Array, reduction: str, threads: int = 1) -> Array:
    """Return a reduction of (images, rows, channels) along the last axis."""
    images, rows, channels = x.shape
    y = beside(None, (images, rows))
    image, row, step = strides(x)
    plan = _native.NetworkPlan(level)
    plan.reduce(
        "reduce", x=(x.ctypes.data, image), x_row=row, x_step=step, y=per_image(y), images=images,
        rows=rows, channels=channels, reduction=reduction,
    )  # fmt: skip
    plan.run(threads)
    assert only_its_own(y)
    return y


def along(rng: np.random.Generator, images: int, rows: int, channels: int) -> Array:
    """Return numbers of which those of a row lie side by side."""
    return beside(rng, (images, rows, channels))


def down(rng: np.random.Generator, images: int, rows: int, channels: int) -> Array:
    """Return numbers of which those of different rows lie side by side."""
    return beside(rng, (images, channels, rows)).transpose(0, 2, 1)


Layout = Callable[[np.random.Generator, int, int, int], Array]
LAYOUTS = pytest.mark.parametrize("layout", [along, down])
SHAPES = pytest.mark.parametrize(
    "shape", [(1, 1, 1), (9, 1, 3), (2, 7, 16), (1, 63, 77), (3, 130, 33), (1, 3, 9000)], ids=str
)


@LAYOUTS
@SHAPES
def test_sums_are_their_definition(level: str, shape: tuple[int, int, int], layout: Layout) -> None:
    x = layout(np.random.default_rng(shape[-1]), *shape)
    exact: Exact = x.astype(np.float64)
    for name in SUMS:
        term = exact * exact if name == "sum of squares" else np.abs(exact)
        room = 2 * EPS * (2 + np.sqrt(shape[-1])) * term.sum(axis=-1)
        assert (np.abs(run(level, x, name) - REDUCTIONS[name](exact)) <= room).all()


@LAYOUTS
@SHAPES
def test_extremes_are_exact(level: str, shape: tuple[int, int, int], layout: Layout) -> None:
    x = layout(np.random.default_rng(shape[-1]), *shape)
    for name in EXTREMES:
        np.testing.assert_array_equal(run(level, x, name), REDUCTIONS[name](x))


@LAYOUTS
def test_extremes_of_one_sign_are_no_zeros(level: str, layout: Layout) -> None:
    x = np.abs(layout(np.random.default_rng(3), 2, 5, 19)) + 1
    np.testing.assert_array_equal(run(level, x, "smallest"), x.min(axis=-1))
    np.testing.assert_array_equal(run(level, -x, "largest"), -x.min(axis=-1))


@LAYOUTS
@pytest.mark.parametrize("name", list(REDUCTIONS))
def test_infinity_and_nan_are_results_of_their_rows(level: str, name: str, layout: Layout) -> None:
    x = layout(np.random.default_rng(4), 1, 21, 23)
    for row, special in enumerate((np.nan, np.inf, -np.inf)):
        for at in (0, 11, 22):  # whichever the other numbers are that it is compared with
            x[0, 7 * row + at // 11, at] = special
    with np.errstate(invalid="ignore"):
        want = REDUCTIONS[name](x)
    np.testing.assert_allclose(run(level, x, name), want, rtol=1e-5, atol=1e-5)


def test_a_long_sum_has_no_long_chain_of_roundings(level: str) -> None:
    x = np.full((1, 2, 1 << 18), 0.1, np.float32)
    for layout in (x, np.ascontiguousarray(x.transpose(0, 2, 1)).transpose(0, 2, 1)):
        got = run(level, layout, "sum")
        np.testing.assert_allclose(got, np.float64(np.float32(0.1)) * (1 << 18), rtol=200 * EPS)


@LAYOUTS
def test_an_image_has_the_same_bits_in_any_batch_and_with_any_threads(
    level: str, layout: Layout
) -> None:
    x = layout(np.random.default_rng(5), 9, 700, 45)
    together = run(level, x, "sum of squares")
    for image in (0, 5):
        alone = run(level, x[image:][:1], "sum of squares", threads=3)
        np.testing.assert_array_equal(alone[0], together[image])
