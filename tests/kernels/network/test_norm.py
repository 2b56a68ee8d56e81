from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdiff import _native

from .operands import (
    EPS,
    Array,
    beside,
    only_its_own,
    per_image,
    pixels,
)

Exact = NDArray[np.float64]


def sigmoid(x: Exact) -> Exact:
    return np.asarray(1 / (1 + np.exp(-x)))


@dataclass
class Groups:
    """A group normalisation of random numbers."""

    images: int
    pixels: int
    channels: int
    groups: int
    mean: float = 3.0
    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.channels)
        self.x = beside(rng, (self.images, self.pixels, self.channels), self.mean)
        self.gamma, self.beta = rng.standard_normal((2, self.channels)).astype(np.float32)

    def run(self, level: str, y: Array, threads: int = 1, **options: Any) -> Array:
        options = {"gamma": self.gamma.ctypes.data, "beta": self.beta.ctypes.data, **options}
        plan = _native.NetworkPlan(level)
        plan.group_norm(
            "norm", x=pixels(self.x), y=pixels(y), images=self.images, pixels=self.pixels,
            channels=self.channels, groups=self.groups, epsilon=self.epsilon, **options,
        )  # fmt: skip
        plan.run(threads)
        return y

    def normalised(self) -> Exact:
        shape = (self.images, self.pixels, self.groups, -1)
        x = self.x.astype(np.float64).reshape(shape)
        mean = x.mean(axis=(1, 3), keepdims=True)
        variance = x.var(axis=(1, 3), keepdims=True)
        return np.asarray((x - mean) / np.sqrt(variance + self.epsilon)).reshape(self.x.shape)

    def tolerance(self) -> float:
        """Of a few roundings of what is added: x and the mean, in standard deviations."""
        return float(4 * EPS * (2 * abs(self.mean) + 8) * (1 + abs(self.gamma).max()))


GROUPS = [
    Groups(1, 64, 32, 8),
    Groups(9, 1, 20, 4),
    Groups(2, 7, 3, 1),
    Groups(2, 63, 33, 11),
    Groups(1, 300, 320, 32),
    Groups(3, 17, 4, 4),
]


@pytest.mark.parametrize("case", GROUPS, ids=str)
def test_group_norm_is_its_definition(level: str, case: Groups) -> None:
    y = case.run(level, beside(None, case.x.shape))

    want = case.normalised() * case.gamma + case.beta
    assert np.abs(y - want).max() <= case.tolerance()
    assert only_its_own(y)


def test_group_norm_keeps_its_digits_far_from_zero(level: str) -> None:
    case = Groups(1, 333, 24, 3, mean=1000.0)
    case.x[0, 0] = 0  # a first pixel unlike the others

    y = case.run(level, beside(None, case.x.shape))

    want = case.normalised() * case.gamma + case.beta
    spread = np.sqrt(case.x.astype(np.float64).var())
    bound = 4 * EPS * 1000 / spread * np.abs(case.gamma).max()
    assert np.abs(y - want).max() <= bound


@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
def test_group_norm_may_write_over_its_input(level: str, activation: str) -> None:
    case = Groups(2, 21, 33, 3)
    z = case.normalised() * case.gamma + case.beta
    inner = z if activation == "silu" else 2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)

    y = case.run(level, case.x, activation=activation)

    assert np.abs(y - z * sigmoid(inner)).max() <= 2 * case.tolerance()


def test_group_norm_of_a_constant_is_zero_without_affine(level: str) -> None:
    case = Groups(2, 30, 12, 3)
    case.x[:] = 7.3

    y = case.run(level, beside(None, case.x.shape), gamma=0, beta=0)

    assert np.abs(y).max() <= 4 * EPS * 7.3 / np.sqrt(case.epsilon)


@dataclass
class Layer:
    """A layer normalisation of random numbers."""

    images: int
    pixels: int
    channels: int
    epsilon: float = 1e-6

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.channels)
        self.x = beside(rng, (self.images, self.pixels, self.channels), mean=2.0)
        self.scale, self.shift = (beside(rng, (self.images, self.channels)) for _ in range(2))
        self.gamma, self.beta = rng.standard_normal((2, self.channels)).astype(np.float32)

    def run(self, level: str, y: Array, threads: int = 1, **options: Any) -> Array:
        plan = _native.NetworkPlan(level)
        plan.layer_norm(
            "norm", x=pixels(self.x), y=pixels(y), images=self.images, pixels=self.pixels,
            channels=self.channels, epsilon=self.epsilon, **options,
        )  # fmt: skip
        plan.run(threads)
        return y

    def everything(self) -> dict[str, Any]:
        return {
            "gamma": self.gamma.ctypes.data,
            "beta": self.beta.ctypes.data,
            "scale": per_image(self.scale),
            "shift": per_image(self.shift),
        }

    def normalised(self, centred: bool = True) -> Exact:
        x = self.x.astype(np.float64)
        if centred:
            x = x - x.mean(axis=-1, keepdims=True)
        return np.asarray(x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon))


LAYERS = [Layer(1, 1, 1), Layer(9, 1, 3), Layer(2, 7, 4), Layer(3, 63, 33), Layer(2, 100, 320)]


@pytest.mark.parametrize("case", LAYERS, ids=str)
def test_layer_norm_is_its_definition(level: str, case: Layer) -> None:
    y = case.run(level, beside(None, case.x.shape), **case.everything())

    before = case.normalised() * case.gamma + case.beta
    want = before * (1 + case.scale[:, None]) + case.shift[:, None]
    size = (np.abs(case.normalised() * case.gamma) + np.abs(case.beta)) * (
        2 + np.abs(case.scale[:, None])
    )
    # Three channels may lie so close together that the mean's rounding counts for more than x's.
    nearness = 1 + np.abs(case.x).max() / (case.x.std(axis=-1, keepdims=True) + 1e-3)
    assert (np.abs(y - want) <= 16 * EPS * nearness * (size + 1)).all()
    assert only_its_own(y)


@pytest.mark.parametrize("centred", [True, False])
def test_layer_norm_works_in_place_without_parameters(level: str, centred: bool) -> None:
    case = Layer(2, 9, 41)
    want = case.normalised(centred)

    y = case.run(level, case.x, centred=centred)

    assert np.abs(y - want).max() <= 32 * EPS * (1 + np.abs(want).max())


@pytest.mark.parametrize("kind", [Groups, Layer])
def test_an_image_has_the_same_bits_in_any_batch_and_with_any_threads(
    level: str, kind: type[Groups] | type[Layer]
) -> None:
    sizes = (50, 33, 3) if kind is Groups else (50, 33)
    case = kind(9, *sizes)
    options = case.everything() if isinstance(case, Layer) else {}
    together = case.run(level, beside(None, case.x.shape), **options)

    for image in (0, 5):
        alone = kind(1, *sizes)
        alone.x, alone.gamma, alone.beta = case.x[image : image + 1], case.gamma, case.beta
        if isinstance(alone, Layer) and isinstance(case, Layer):
            alone.scale, alone.shift = case.scale[image:][:1], case.shift[image:][:1]
            options = alone.everything()
        got = alone.run(level, beside(None, alone.x.shape), threads=3, **options)
        np.testing.assert_array_equal(got[0], together[image])
