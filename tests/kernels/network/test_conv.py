from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.errors import InvalidArgument

from .operands import ACTIVATIONS, EPS, Array, Exact, beside, per_image

# How much rounding an algorithm adds to that of the sum, measured, with room to spare. Tiles round
# their operands to bfloat16 first, and so does what they are compared with.
GROWTH = {"direct": 1.0, "tiles": 1.0, "winograd2": 2.0, "winograd4": 12.0}


@dataclass
class Case:
    """A convolution of random numbers, with operands that lie in wider buffers."""

    images: int
    size: tuple[int, int]
    channels: int
    out_channels: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: tuple[int, int, int, int] = (1, 1, 1, 1)  # top, left, bottom, right
    upsample: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        height, width = (n // 2 for n in self.size) if self.upsample else self.size
        self.x = beside(rng, (self.images, height, width, self.channels))
        taps = (self.out_channels, self.channels, *self.kernel)
        scale = 1 / math.sqrt(self.channels * math.prod(self.kernel))
        self.weights = (scale * rng.standard_normal(taps)).astype(np.float32)
        self.bias = rng.standard_normal(self.out_channels).astype(np.float32)
        top, left, bottom, right = self.padding
        self.out_size = (
            (self.size[0] + top + bottom - self.kernel[0]) // self.stride + 1,
            (self.size[1] + left + right - self.kernel[1]) // self.stride + 1,
        )
        self.out_shape = (self.images, *self.out_size, self.out_channels)
        self.shift, self.scale = (beside(rng, (self.images, self.out_channels)) for _ in range(2))
        self.residual = beside(rng, self.out_shape)

    @property
    def phased(self) -> bool:
        """Whether tiles go by the phases of the doubled image, as they do for 256 pixels."""
        return self.upsample and math.prod(self.size) >= 4 * 256

    def sums(self, algorithm: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the convolution in float64, and that of absolute values, which bounds rounding."""
        rounded = _bfloat16 if algorithm == "tiles" else np.asarray
        x = rounded(self.x).astype(np.float64)
        if self.phased and algorithm == "tiles":
            phases = rounded(phases_of(self.weights)).astype(np.float64)
            return sums_of_phases(x, phases), sums_of_phases(abs(x), abs(phases))
        if self.upsample:
            x = x.repeat(2, axis=1).repeat(2, axis=2)
        weights = rounded(self.weights).astype(np.float64)
        return self.convolved(x, weights), self.convolved(abs(x), abs(weights))

    def convolved(self, x: Exact, weights: Exact) -> Exact:
        """Return the convolution of images that are doubled already."""
        top, left, bottom, right = self.padding
        x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        patches = np.lib.stride_tricks.sliding_window_view(x, self.kernel, axis=(1, 2))
        patches = patches[:, :: self.stride, :: self.stride]
        return np.asarray(np.einsum("bhwcij,ncij->bhwn", patches, weights, optimize=True))

    def run(self, level: str, algorithm: str = "direct", threads: int = 1, **options: Any) -> Array:
        plan = _native.NetworkPlan(level)
        packed = self.packed(level, algorithm)
        y = beside(None, self.out_shape)
        plan.conv(
            "conv", x=_pixels(self.x), y=_pixels(y), images=self.images, size=self.size,
            channels=self.channels, out_size=self.out_size, out_channels=self.out_channels,
            weights=packed.ctypes.data, kernel=self.kernel, stride=self.stride,
            padding=self.padding[:2], upsample=self.upsample, algorithm=algorithm, **options,
        )  # fmt: skip
        plan.run(threads)
        return y

    def packed(self, level: str, algorithm: str) -> NDArray[Any]:
        if algorithm == "direct":
            return _native.pack_panels(_taps(self.weights), level)
        if algorithm == "tiles":
            parts = phases_of(self.weights) if self.phased else [self.weights]
            return np.concatenate([_native.pack_tiles(_taps(part)).ravel() for part in parts])
        return _native.pack_winograd(self.weights, int(algorithm[-1]), level)

    def check(self, got: Array, algorithm: str) -> None:
        exact, size = self.sums(algorithm)
        terms = self.channels * math.prod(self.kernel)
        bound = GROWTH[algorithm] * (2 * math.sqrt(terms) + 8) * EPS * size.max()
        assert np.abs(got - exact).max() <= bound


def _taps(weights: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(weights.reshape(*weights.shape[:2], -1).transpose(2, 1, 0))


def phases_of(weights: Array) -> Array:
    """Return the kernels (2, 2) of the four phases of a doubled image, (4, N, C, 2, 2).

    Pixel 2 y + a of the output reads 2 y + a + k - 1 of the doubled image with tap k, which is that
    half of it of the image itself; the first one that phase a reads is y + a - 1.
    """
    phases = np.zeros((2, 2, *weights.shape[:2], 2, 2), weights.dtype)
    for (a, k), (b, m) in itertools.product(itertools.product(range(2), range(3)), repeat=2):
        row, column = (a + k - 1) // 2 + 1 - a, (b + m - 1) // 2 + 1 - b
        phases[a, b, :, :, row, column] += weights[:, :, k, m]
    return phases.reshape(4, *phases.shape[2:])


def sums_of_phases(x: Exact, phases: Exact) -> Exact:
    """Return what the phases add up to on images (B, H, W, C), in float64."""
    images, height, width, _ = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    patches = np.lib.stride_tricks.sliding_window_view(padded, (2, 2), axis=(1, 2))
    y = np.empty((images, 2 * height, 2 * width, phases.shape[1]))
    for phase, (a, b) in enumerate(itertools.product(range(2), repeat=2)):
        own = patches[:, a : a + height, b : b + width]
        y[:, a::2, b::2] = np.einsum("bhwcij,ncij->bhwn", own, phases[phase], optimize=True)
    return y


def _bfloat16(array: Array) -> Array:
    return torch.from_numpy(array.copy()).bfloat16().float().numpy()


def _pixels(array: Array) -> tuple[int, int, int]:
    return array.ctypes.data, array.strides[0] // 4, array.strides[-2] // 4


CASES = [
    Case(1, (8, 8), 32, 32),
    Case(2, (7, 7), 33, 20),
    Case(9, (1, 1), 3, 4),
    Case(1, (63, 5), 4, 33),
    Case(3, (4, 6), 320, 17),
    Case(2, (16, 16), 8, 64, upsample=True),
    Case(1, (10, 6), 20, 33, upsample=True),
    Case(1, (2, 2), 4, 3, upsample=True),
    Case(1, (32, 32), 33, 40, upsample=True),
    Case(1, (36, 40), 8, 3, upsample=True),
]
OTHER_SHAPES = [
    Case(2, (8, 8), 33, 20, stride=2),
    Case(1, (7, 9), 4, 40, stride=2, padding=(0, 0, 1, 1)),  # as diffusers' Downsample2D pads
    Case(2, (12, 12), 4, 48, kernel=(4, 4), stride=4, padding=(0, 0, 0, 0)),  # patches
    Case(2, (32, 32), 8, 33),
    Case(3, (1, 63), 64, 130, kernel=(1, 1), padding=(0, 0, 0, 0)),  # a linear layer
    Case(2, (5, 5), 6, 3, kernel=(5, 3), padding=(2, 1, 2, 1)),
]


def _name(case: Case) -> str:
    return f"{case.images}x{case.size[0]}x{case.size[1]}x{case.channels}to{case.out_channels}"


@pytest.mark.parametrize("algorithm", list(GROWTH))
@pytest.mark.parametrize("case", CASES, ids=_name)
def test_conv_is_the_sum_over_the_patch(level: str, case: Case, algorithm: str) -> None:
    case.check(case.run(level, algorithm), algorithm)


@pytest.mark.parametrize("algorithm", ["direct", "tiles"])
@pytest.mark.parametrize("case", OTHER_SHAPES, ids=_name)
def test_conv_takes_any_kernel_stride_and_padding(level: str, case: Case, algorithm: str) -> None:
    case.check(case.run(level, algorithm), algorithm)


@pytest.mark.parametrize("algorithm", list(GROWTH))
def test_what_follows_a_conv_is_done_with_its_sums(level: str, algorithm: str) -> None:
    case = Case(3, (6, 7), 16, 37)
    operands = {
        "bias": case.bias.ctypes.data,
        "shift": per_image(case.shift),
        "scale": per_image(case.scale),
        "residual": _pixels(case.residual),
    }

    got = case.run(level, algorithm, activation="silu", **operands)

    exact, size = case.sums(algorithm)
    before = exact + case.bias + case.shift[:, None, None]
    product = case.scale[:, None, None] * before / (1 + np.exp(-before))
    bound = GROWTH[algorithm] * 64 * EPS * (size.max() + 4) * np.abs(case.scale).max()
    short = 2.0**-12 * np.abs(product) if algorithm == "tiles" else 0  # the next test's bound
    assert (np.abs(got - (case.residual + product)) <= bound + short).all()


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_activations_behind_tiles_are_off_by_12_bits(level: str, activation: str) -> None:
    case = Case(1, (1, 999), 1, 1, kernel=(1, 1), padding=(0, 0, 0, 0))
    case.weights[:] = 1
    case.x[0, 0, :, 0] = x = _bfloat16(np.linspace(-9, 9, 999, dtype=np.float32))

    got = case.run(level, "tiles", activation=activation)[0, 0, :, 0]

    want = ACTIVATIONS[activation](x.astype(np.float64))
    assert (np.abs(got - want) <= 2.0**-12 * np.abs(want) + 1e-7).all()


@pytest.mark.parametrize("algorithm", list(GROWTH))
def test_a_doubled_image_takes_what_follows_too(level: str, algorithm: str) -> None:
    case = Case(2, (32, 34), 16, 37, upsample=True)
    operands = {"shift": per_image(case.shift), "residual": _pixels(case.residual)}

    got = case.run(level, algorithm, threads=2, **operands)

    exact, size = case.sums(algorithm)
    bound = GROWTH[algorithm] * 64 * EPS * (size.max() + 4)
    assert np.abs(got - (exact + case.shift[:, None, None] + case.residual)).max() <= bound


def test_a_conv_may_write_over_its_residual(level: str) -> None:
    case = Case(2, (5, 6), 8, 24)
    plan = _native.NetworkPlan(level)
    packed, y = case.packed(level, "direct"), case.residual.copy()
    plan.conv(
        "conv", x=_pixels(case.x), y=_pixels(y), images=2, size=(5, 6), channels=8,
        out_size=(5, 6), out_channels=24, weights=packed.ctypes.data, kernel=(3, 3),
        padding=(1, 1), residual=_pixels(y),
    )  # fmt: skip
    plan.run(1)

    case.check(y - case.residual, "direct")


@pytest.mark.parametrize("algorithm", list(GROWTH))
@pytest.mark.parametrize("blocks", [(0, 0), (6, 1), (40, 3), (1000, 100)])
def test_a_row_has_the_same_bits_in_any_batch_and_with_any_threads_and_blocks(
    level: str, algorithm: str, blocks: tuple[int, int]
) -> None:
    case = Case(9, (6, 6), 40, 50)
    together = case.run(level, algorithm)

    for image in (0, 5):
        alone = Case(1, (6, 6), 40, 50)
        alone.x, alone.weights = case.x[image : image + 1], case.weights
        got = alone.run(level, algorithm, threads=3, blocks=blocks)
        np.testing.assert_array_equal(got[0], together[image])


def test_more_tiles_than_the_cache_holds_are_done_in_parts(level: str) -> None:
    case = Case(5, (40, 40), 64, 96)
    case.check(case.run(level, "winograd4", threads=2), "winograd4")


def test_what_does_not_fit_together_is_refused() -> None:
    case = Case(1, (8, 8), 4, 4, stride=2)
    with pytest.raises(InvalidArgument, match="3 x 3 kernels of stride 1"):
        case.run("", algorithm="winograd2")
    with pytest.raises(InvalidArgument, match="there are: none, silu"):
        case.run("", activation="relu")
    with pytest.raises(InvalidArgument, match="no CPU level sse9"):
        _native.NetworkPlan("sse9")
