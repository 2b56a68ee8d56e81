"""Convolutions of 8-bit integers: their sums are exact, so all levels give the same bits."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.errors import InvalidArgument

from .operands import beside, per_image
from .test_conv import (
    CASES,
    OTHER_SHAPES,
    Array,
    Case,
    _name,
    _pixels,
    _taps,
    sums_of_phases,
)


class Quantized:
    """A case with integer weights, and input scales that are powers of two: products are exact."""

    def __init__(self, case: Case) -> None:
        rng = np.random.default_rng(1)
        self.case = case
        shape: tuple[int, ...] = case.weights.shape
        if case.phased:  # phases have weights and scales of their own
            shape = (4, *shape[:2], 2, 2)
        self.weights = rng.integers(-127, 128, shape).astype(np.int8)
        self.inputs = np.exp2(rng.integers(4, 7, case.channels)).astype(np.float32)
        self.outputs = rng.uniform(1e-5, 1e-4, shape[:-3]).astype(np.float32)
        self.zero = 100
        self.zeros = self.zero * self.weights.sum((-1, -2, -3), dtype=np.int32)

    def want(self) -> Array:
        case = self.case
        q = np.rint(case.x * self.inputs + np.float32(self.zero))
        x = np.clip(q, 0, 255).astype(np.int64) - self.zero
        # exact in float64, where products are fast
        exact, weights = x.astype(np.float64), self.weights.astype(np.float64)
        if case.upsample and not case.phased:
            exact = exact.repeat(2, axis=1).repeat(2, axis=2)
        if not case.phased:
            return case.convolved(exact, weights).astype(np.float32) * self.outputs
        y = sums_of_phases(exact, weights).astype(np.float32)
        for phase, (a, b) in enumerate(itertools.product(range(2), repeat=2)):
            y[:, a::2, b::2] *= self.outputs[phase]
        return y

    def addresses(self) -> tuple[int, int, int]:
        return self.inputs.ctypes.data, self.outputs.ctypes.data, self.zeros.ctypes.data

    def run(self, level: str, threads: int = 1, **options: Any) -> Array:
        case, plan = self.case, _native.NetworkPlan(level)
        parts = self.weights if case.phased else self.weights[None]
        packed = np.concatenate([_native.pack_int8(_taps(part)).ravel() for part in parts])
        y = beside(None, case.out_shape)
        plan.conv(
            "conv", x=_pixels(case.x), y=_pixels(y), images=case.images, size=case.size,
            channels=case.channels, out_size=case.out_size, out_channels=case.out_channels,
            weights=packed.ctypes.data, kernel=case.kernel, stride=case.stride,
            padding=case.padding[:2], upsample=case.upsample, algorithm="int8",
            quantization=(*self.addresses(), self.zero), **options,
        )  # fmt: skip
        plan.run(threads)
        return y


@pytest.mark.parametrize("case", [*CASES, *OTHER_SHAPES], ids=_name)
def test_sums_of_integers_are_exact(level: str, case: Case) -> None:
    quantized = Quantized(case)
    np.testing.assert_array_equal(quantized.run(level, threads=2), quantized.want())


@pytest.mark.parametrize("blocks", [(16, 1), (1000, 100)])
def test_integers_take_what_follows_a_conv(level: str, blocks: tuple[int, int]) -> None:
    case = Case(3, (6, 7), 70, 37)
    quantized = Quantized(case)

    got = quantized.run(
        level, activation="silu", blocks=blocks, bias=case.bias.ctypes.data,
        shift=per_image(case.shift), scale=per_image(case.scale),
        residual=_pixels(case.residual),
    )  # fmt: skip

    before = quantized.want().astype(np.float64) + case.bias + case.shift[:, None, None]
    product = case.scale[:, None, None] * before / (1 + np.exp(-before))
    off = np.abs(got - (case.residual + product))
    assert (off <= 2.0**-12 * np.abs(product) + 1e-5).all()


def test_inputs_beyond_the_range_are_clipped_and_nan_is_its_lowest(level: str) -> None:
    case = Case(1, (1, 4), 1, 1, kernel=(1, 1), padding=(0, 0, 0, 0))
    quantized = Quantized(case)
    quantized.inputs[:], quantized.outputs[:] = 1, 1
    quantized.weights[:] = 1
    quantized.zeros[:] = quantized.zero
    case.x[0, 0, :, 0] = [1e30, -np.inf, np.nan, -3.5]

    assert quantized.run(level)[0, 0, :, 0].tolist() == [155, -100, -100, -4]


def test_the_largest_sum_fits(level: str) -> None:
    case = Case(1, (1, 1), 66311, 1, kernel=(1, 1), padding=(0, 0, 0, 0))
    quantized = Quantized(case)
    for value, weight in itertools.product((-1e9, 1e9), (-127, 127)):
        case.x[:] = value
        quantized.weights[:] = weight
        quantized.zeros[:] = 0
        quantized.outputs[:] = 1
        want = (255 if value > 0 else 0) * weight * 66311
        assert quantized.run(level)[0, 0, 0, 0] == np.float32(want)


def test_what_integers_cannot_do_is_refused() -> None:
    case = Case(1, (1, 1), 66312, 1, kernel=(1, 1), padding=(0, 0, 0, 0))
    with pytest.raises(InvalidArgument, match="too many terms"):
        Quantized(case).run("")
    quantized = Quantized(Case(1, (2, 2), 4, 4))
    quantized.zero = 256
    with pytest.raises(InvalidArgument, match="expected 0 to be one of 0 to 255"):
        quantized.run("")
    with pytest.raises(InvalidArgument, match="no other algorithm takes a quantization"):
        Case(1, (2, 2), 4, 4).run("", "direct", quantization=(0, 0, 0, 0))


@pytest.mark.parametrize("shape", [(1, 1, 1), (9, 33, 20), (4, 64, 32), (1, 130, 65)])
def test_tiles_hold_each_weight_once(shape: tuple[int, int, int]) -> None:
    taps, depth, columns = shape
    weights = np.random.default_rng(0).integers(-127, 128, shape).astype(np.int8)

    packed: NDArray[np.int8] = _native.pack_int8(weights)

    steps, panels = -(-depth // 64), -(-columns // 32)
    tiles = packed.reshape(panels, steps, taps, 2, 16, 16, 4)
    whole = tiles.transpose(2, 1, 4, 6, 0, 3, 5).reshape(taps, steps * 64, panels * 32)
    np.testing.assert_array_equal(whole[:, :depth, :columns], weights)
    assert np.abs(whole.astype(int)).sum() == np.abs(weights.astype(int)).sum()
