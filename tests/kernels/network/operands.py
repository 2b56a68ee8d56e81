"""Operands of the native backend's kernels: arrays inside wider memory, and their addresses."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Exact = NDArray[np.float64]
EPS = 2.0**-24  # half a unit in the last place of 1


def logistic(x: Exact) -> Exact:
    return np.asarray(1 / (1 + np.exp(-x)))


def normal_cdf(x: Exact) -> Exact:
    return np.asarray([math.erfc(-v / math.sqrt(2)) / 2 for v in x])


def inner(x: Exact) -> Exact:
    return np.asarray(math.sqrt(8 / math.pi) * (x + 0.044715 * x**3))


ACTIVATIONS: dict[str, Callable[[Exact], Exact]] = {
    "sigmoid": logistic,
    "silu": lambda x: x * logistic(x),
    "gelu": lambda x: x * normal_cdf(x),
    "gelu_tanh": lambda x: x * logistic(inner(x)),
}


def beside(rng: np.random.Generator | None, shape: tuple[int, ...], mean: float = 0.0) -> Array:
    """Return normal numbers that lie between NaNs, or NaNs alone."""
    buffer = np.full((*shape[:-1], shape[-1] + 5), np.nan, np.float32)
    part = buffer[..., 2:-3]
    if rng is not None:
        part[:] = mean + rng.standard_normal(shape)
    return part


def strides(array: Array) -> tuple[int, ...]:
    return tuple(n // array.itemsize for n in array.strides)


def pixels(array: Array) -> tuple[int, int, int]:
    """(images, pixels, channels)."""
    image, pixel, _ = strides(array)
    return array.ctypes.data, image, pixel


def per_image(array: Array) -> tuple[int, int]:
    """(images, channels)."""
    return array.ctypes.data, strides(array)[0]


def heads(array: Array) -> tuple[int, int, int, int]:
    """(images, tokens, heads, channels)."""
    image, token, head, _ = strides(array)
    return array.ctypes.data, image, head, token


def strided(array: Array) -> tuple[int, tuple[int, ...]]:
    return array.ctypes.data, strides(array)


def only_its_own(array: Array) -> bool:
    """Whether what lies between the rows of an array of `beside` is as it was."""
    assert array.base is not None
    return bool(np.isnan(array.base[..., :2]).all() and np.isnan(array.base[..., -3:]).all())
