"""Measures how each convolution of a plan runs fastest here, and in bfloat16 each attention too.

The direct sum is best where an image has few pixels, Winograd's algorithms where it has many, and
where between depends on the caches. Tiles pad the heads of an attention, which only some CPUs make
up for. Nodes of one shape are measured once. The choice is the same for every batch size, so that a
row has the same bits in all of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.native.algorithms import HALVES, TILES, Algorithm
from fastdiff.native.nodes import Attention, Conv, Gather
from fastdiff.native.plan import Plan
from fastdiff.native.running.aligned import aligned_empty
from fastdiff.native.running.shapes import AnyShape, AttentionShape, ConvShape

_BATCHES = (1, 4)
_RUNS, _LONG_SECONDS = 5, 0.01
_ALIKE = 1.02  # times that differ by so little choose the blocks that are named first
_SMALL_FLOPS = 2e6  # measuring gains nothing for a node of so few
_COLD_FLOATS = 24 << 20  # of weights to go through, so that none are cached from the last run


def choose(
    plan: Plan, level: str, threads: int, precision: str = "float32"
) -> dict[str, Algorithm]:
    """Return the fastest choice for each convolution, and in bfloat16 each attention, by its name.

    In bfloat16, tables of labels are kept in it without a measurement.

    Parameters
    ----------
    plan : Plan
    level : str
        Of the kernels.
    threads : int
    precision : str
        ``"float32"``, ``"bfloat16"`` for `TILES` wherever they pay, or ``"int8"`` for `INT8`
        wherever that is faster than float32, but for the last one: its error is the output's.
    """
    bench, convolutions = _Bench(level, threads), plan.convolutions
    best: dict[tuple[AnyShape, str], Algorithm] = {}
    chosen = {}
    if precision == "bfloat16":
        tables = (node for node in plan.nodes if isinstance(node, Gather))
        chosen = {node.name: Algorithm(HALVES) for node in tables}
    for node in plan.nodes:
        case: tuple[AnyShape, str]
        if isinstance(node, Conv):
            exact = precision == "int8" and node is convolutions[-1]
            case = ConvShape.of(node), "float32" if exact else precision
        elif isinstance(node, Attention) and precision == "bfloat16":
            case = AttentionShape.of(node), precision
        else:
            continue
        if case not in best:
            small = node.flops < _SMALL_FLOPS
            best[case] = _narrowest(*case) if small else _fastest(bench, *case)
        chosen[node.name] = best[case]
    return chosen


def _narrowest(shape: AnyShape, precision: str) -> Algorithm:
    """Return what reads the fewest bytes of weights: all that matters where few pixels use them."""
    algorithms = shape.algorithms(precision)
    return Algorithm(TILES) if algorithms == (TILES,) else Algorithm()


def _fastest(bench: _Bench, shape: AnyShape, precision: str) -> Algorithm:
    """Compare the algorithms over the batch sizes, then the blocks of the best at a batch of 1."""
    first = [Algorithm(name, shape.blocks(name)[0]) for name in shape.algorithms(precision)]
    scores = [0.0] * len(first)
    if len(first) > 1:
        for batch in _BATCHES:
            seconds = bench.seconds(shape, first, batch)
            scores = [score + s / min(seconds) for score, s in zip(scores, seconds, strict=True)]
            if min(seconds) > _LONG_SECONDS:
                break
    winner = first[scores.index(min(scores))]
    choices = [replace(winner, blocks=blocks) for blocks in shape.blocks(winner.algorithm)]
    seconds = bench.seconds(shape, choices, 1)
    return next(c for c, s in zip(choices, seconds, strict=True) if s <= _ALIKE * min(seconds))


def _numbers(count: int) -> NDArray[np.float32]:
    memory = aligned_empty(count)
    memory.fill(1e-3)
    return memory


class _Bench:
    """Times nodes on memory of its own, with weights that no cache holds."""

    def __init__(self, level: str, threads: int) -> None:
        self._level, self._threads = level, threads
        self._panel = _native.NetworkPlan(level).panel
        self._weights, self._images = _numbers(_COLD_FLOATS), _numbers(1 << 20)

    def seconds(self, shape: AnyShape, choices: Sequence[Algorithm], batch: int) -> list[float]:
        """Return the shortest time of a few runs of each choice; they take turns."""
        self._make_room(batch * shape.floats, *(self._packed(shape, c) for c in choices))
        plans = [self._plans(shape, choice, batch) for choice in choices]
        for own in plans:
            own[0].run(self._threads)
        shortest, spent = [float("inf")] * len(plans), 0.0
        for turn in range(_RUNS):
            for i, own in enumerate(plans):
                begin = time.perf_counter()
                own[turn % len(own)].run(self._threads)
                seconds = time.perf_counter() - begin
                shortest[i], spent = min(shortest[i], seconds), spent + seconds
            if spent > _LONG_SECONDS * len(plans):
                break
        return shortest

    def _packed(self, shape: AnyShape, choice: Algorithm) -> int:
        return shape.packed_floats(choice.algorithm, self._panel)

    def _make_room(self, images: int, *weights: int) -> None:
        if images > len(self._images):
            self._images = _numbers(images)
        if max(weights) > len(self._weights):
            self._weights = _numbers(max(weights))

    def _plans(self, shape: AnyShape, choice: Algorithm, batch: int) -> list[_native.NetworkPlan]:
        """Return plans of one node, each with other weights."""
        packed = self._packed(shape, choice)
        plans = []
        for copy in range(min(_RUNS, len(self._weights) // packed) if packed else 1):
            plan = _native.NetworkPlan(self._level)
            weights = self._weights.ctypes.data + 4 * copy * packed
            shape.add(plan, choice, batch, self._images.ctypes.data, weights)
            plans.append(plan)
        return plans
