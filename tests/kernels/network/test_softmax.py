from __future__ import annotations

import numpy as np
import pytest

from fastdiff import _native

from .operands import EPS, Array, Exact, beside, only_its_own, pixels


def run(level: str, x: Array, y: Array | None = None, threads: int = 1) -> Array:
    """Return the softmax of (images, rows, channels)."""
    y = beside(None, x.shape) if y is None else y
    images, rows, channels = x.shape
    plan = _native.NetworkPlan(level)
    plan.softmax("softmax", x=pixels(x), y=pixels(y), images=images, rows=rows, channels=channels)
    plan.run(threads)
    return y


def softmax(x: Array) -> Exact:
    powers = np.exp(x.astype(np.float64) - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def bound(x: Array) -> Exact:
    """Of what each is: a power is off by as many roundings as its exponent is large."""
    below = x.max(axis=-1, keepdims=True) - x.astype(np.float64)
    return (16 + 4 * below + np.sqrt(x.shape[-1])) * EPS


SHAPES = [(1, 1, 1), (9, 1, 3), (2, 7, 16), (1, 63, 77), (3, 5, 33), (1, 2, 5000), (1, 400, 31)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_softmax_is_its_definition(level: str, shape: tuple[int, int, int]) -> None:
    x = beside(np.random.default_rng(shape[-1]), shape)
    x *= 3
    y = run(level, x)
    assert (np.abs(y / softmax(x) - 1) <= bound(x)).all()
    assert only_its_own(y)


def test_softmax_may_write_over_its_input(level: str) -> None:
    x = beside(np.random.default_rng(0), (2, 9, 41))
    want, room = softmax(x), bound(x)
    assert (np.abs(run(level, x, x) / want - 1) <= room).all()


@pytest.mark.parametrize("shift", [-1e4, 1e4, 3e38])
def test_softmax_is_that_of_what_is_left_of_the_largest(level: str, shift: float) -> None:
    x = np.zeros((1, 1, 37), np.float32)
    x[0, 0, [3, 36]] = shift
    want = np.zeros(37) if shift > 0 else np.full(37, 1 / 35)
    want[[3, 36]] = 0.5 if shift > 0 else 0
    np.testing.assert_allclose(run(level, x)[0, 0], want, rtol=4 * EPS)


def test_infinity_takes_no_part_or_spoils_its_row_alone(level: str) -> None:
    x = np.zeros((1, 5, 19), np.float32)
    x[0, 0, 5:] = -np.inf
    x[0, 1] = -np.inf
    x[0, 2, 18] = np.inf
    x[0, 3, 2] = np.nan

    y = run(level, x)[0]

    np.testing.assert_allclose(y[0], [0.2] * 5 + [0] * 14, rtol=4 * EPS)
    assert np.isnan(y[1:4]).all()
    np.testing.assert_allclose(y[4], np.full(19, 1 / 19), rtol=4 * EPS)


def test_an_image_has_the_same_bits_in_any_batch_and_with_any_threads(level: str) -> None:
    x = beside(np.random.default_rng(2), (9, 300, 45))
    together = run(level, x)
    for image in (0, 5):
        np.testing.assert_array_equal(run(level, x[image:][:1], threads=3)[0], together[image])
