"""Measures how each convolution of a plan runs fastest here: its algorithm, and its blocks.

The direct sum is best where an image has few pixels, Winograd's algorithms where it has many, and
where between depends on the caches. Convolutions of one shape are measured once. The choice is the
same for every batch size, so that a row has the same bits in all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from fastdiff import _native
from fastdiff.denoisers.network.nodes import Conv
from fastdiff.denoisers.network.packing import ALGORITHMS, INT8, TILES, Choice, packed_size
from fastdiff.denoisers.network.quantizing import MOST_TERMS

_BLOCKS = {
    "direct": ((96, 2), (48, 1), (48, 4), (192, 2), (24, 8)),
    "winograd2": ((0, 2), (0, 1), (0, 4)),
    "winograd4": ((0, 2), (0, 1), (0, 4)),
    TILES: ((64, 2), (32, 1), (128, 2), (64, 4)),
    INT8: ((64, 2), (32, 1), (128, 2), (64, 4)),
}
_BATCHES = (1, 4)
_RUNS, _LONG_SECONDS = 5, 0.01
_LEAST_CHANNELS = {TILES: 16, INT8: 32}  # half a tile: fewer are not worth rounding
_SMALL_FLOPS = 2e6  # nothing is to be gained in a convolution of so few
_COLD_FLOATS = 24 << 20  # of weights to go through, so that none are cached from the last run


@dataclass(frozen=True)
class _Shape:
    """What convolutions have in common that take the same time."""

    size: tuple[int, int]
    channels: int
    out_size: tuple[int, int]
    out_channels: int
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    upsample: bool

    @classmethod
    def of(cls, node: Conv) -> _Shape:
        height, width, channels = node.x.shape
        factor = 2 if node.upsample else 1
        return cls(
            (factor * height, factor * width), channels, (node.y.shape[0], node.y.shape[1]),
            node.y.shape[2], node.kernel, node.stride, node.padding, node.upsample,
        )  # fmt: skip

    @property
    def flops(self) -> int:
        """Of the direct sum, for one image."""
        taps = self.kernel[0] * self.kernel[1]
        return 2 * self.out_size[0] * self.out_size[1] * taps * self.channels * self.out_channels

    def algorithms(self, precision: str) -> tuple[str, ...]:
        """Return those that may compute it: integers beside the exact ones, which can be faster."""
        if precision == "bfloat16" and self.channels >= _LEAST_CHANNELS[TILES]:
            return (TILES,)
        exact = ALGORITHMS if self.kernel == (3, 3) and self.stride == 1 else ALGORITHMS[:1]
        terms = self.kernel[0] * self.kernel[1] * self.channels
        integers = self.channels >= _LEAST_CHANNELS[INT8] and terms <= MOST_TERMS
        return (INT8, *exact) if precision == "int8" and integers else exact


def choose(
    convolutions: Iterable[Conv],
    level: str,
    threads: int,
    precision: str = "float32",
) -> dict[str, Choice]:
    """Return the fastest choice for each convolution, by its name.

    Parameters
    ----------
    convolutions : iterable of Conv
    level : str
        Of the kernels.
    threads : int
    precision : str
        ``"float32"``, ``"bfloat16"`` for `TILES` wherever they pay, or ``"int8"`` for `INT8`
        wherever that is faster than float32, but for the last one: its error is the output's.
    """
    nodes = list(convolutions)
    bench = _Bench(level, threads)
    best: dict[tuple[_Shape, str], Choice] = {}
    chosen = {}
    for node in nodes:
        exact = precision == "int8" and node is nodes[-1]
        case = _Shape.of(node), "float32" if exact else precision
        if case not in best:
            small = case[0].flops < _SMALL_FLOPS
            best[case] = Choice() if small else _fastest(bench, *case)
        chosen[node.name] = best[case]
    return chosen


def _fastest(bench: _Bench, shape: _Shape, precision: str) -> Choice:
    """Compare the algorithms over the batch sizes, then the blocks of the best at a batch of 1."""
    first = [Choice(name, _BLOCKS[name][0]) for name in shape.algorithms(precision)]
    scores = [0.0] * len(first)
    if len(first) > 1:
        for batch in _BATCHES:
            seconds = [bench.seconds(shape, choice, batch) for choice in first]
            scores = [score + s / min(seconds) for score, s in zip(scores, seconds, strict=True)]
            if min(seconds) > _LONG_SECONDS:
                break
    winner = first[scores.index(min(scores))]
    choices = [replace(winner, blocks=blocks) for blocks in _BLOCKS[winner.algorithm]]
    return min(choices, key=lambda choice: bench.seconds(shape, choice, 1))


class _Bench:
    """Times convolutions on memory of its own, with weights that no cache holds."""

    def __init__(self, level: str, threads: int) -> None:
        self._level, self._threads = level, threads
        self._panel = _native.NetworkPlan(level).panel
        self._weights = np.full(_COLD_FLOATS, 1e-3, np.float32)
        self._images = np.full(1 << 20, 1e-3, np.float32)

    def seconds(self, shape: _Shape, choice: Choice, batch: int) -> float:
        """Return the shortest time of a few runs."""
        plans = self._plans(shape, choice, batch)
        plans[0].run(self._threads)
        shortest, spent = float("inf"), 0.0
        for turn in range(_RUNS):
            begin = time.perf_counter()
            plans[turn % len(plans)].run(self._threads)
            seconds = time.perf_counter() - begin
            shortest, spent = min(shortest, seconds), spent + seconds
            if spent > _LONG_SECONDS:
                break
        return shortest

    def _plans(self, shape: _Shape, choice: Choice, batch: int) -> list[_native.NetworkPlan]:
        """Return plans of one node, each with other weights."""
        height, width = (n // 2 for n in shape.size) if shape.upsample else shape.size
        inputs = height * width * shape.channels
        outputs = shape.out_size[0] * shape.out_size[1] * shape.out_channels
        floats = batch * (inputs + outputs)
        if floats > len(self._images):
            self._images = np.full(floats, 1e-3, np.float32)
        weights = (shape.out_channels, shape.channels, *shape.kernel)
        dtype, packed = packed_size(weights, choice.algorithm, self._panel)
        packed = packed * np.dtype(dtype).itemsize // 4
        if packed > len(self._weights):
            self._weights = np.full(packed, 1e-3, np.float32)
        x = self._images.ctypes.data
        plans = []
        for copy in range(min(_RUNS, len(self._weights) // packed)):
            plan = _native.NetworkPlan(self._level)
            plan.conv(
                "conv",
                x=(x, inputs, shape.channels),
                y=(x + 4 * batch * inputs, outputs, shape.out_channels),
                images=batch,
                size=shape.size,
                channels=shape.channels,
                out_size=shape.out_size,
                out_channels=shape.out_channels,
                weights=self._weights.ctypes.data + 4 * copy * packed,
                kernel=shape.kernel,
                stride=shape.stride,
                padding=shape.padding,
                upsample=shape.upsample,
                algorithm=choice.algorithm,
                blocks=choice.blocks,
                quantization=(x, x, x, 128) if choice.algorithm == INT8 else None,
            )
            plans.append(plan)
        return plans
