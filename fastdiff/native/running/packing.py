"""Weights in the order in which the kernels of the chosen algorithms read them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.native.algorithms import DIRECT, HALVES, INT8, TILE_CHANNELS, TILES, Algorithm
from fastdiff.native.nodes import Conv, Gather
from fastdiff.native.nodes.conv import SCALES
from fastdiff.native.plan import Plan
from fastdiff.native.running.aligned import aligned
from fastdiff.native.running.quantizing import quantize

_Element = TypeVar("_Element", bound=np.generic)
Arrays = dict[str, NDArray[Any]]
"""Packed weights by name: float32, the bits of bfloat16 as uint16, or int8 and what scales it."""

_COLUMNS = 32  # of two tiles
_PHASES = 4


def pack(
    plan: Plan,
    choices: Mapping[str, Algorithm],
    level: str = "",
    threads: int = 1,
    ranges: Arrays | None = None,
) -> Arrays:
    """Return the weights as the kernels read them, by name.

    Parameters
    ----------
    plan : Plan
    choices : mapping of str to Algorithm
        By names of nodes; the others run directly.
    level : str
        Of the kernels; "" for the best.
    threads : int
    ranges : dict of str to array, optional
        (2, C) for each convolution that `INT8` is chosen for, by its name: its lowest and highest
        inputs.
    """
    observed = ranges or {}
    packed: Arrays = {name: aligned(plan.weights[name]) for name in unpacked(plan, choices)}
    for gather in halved(plan, choices):
        halves = torch.from_numpy(plan.weights[gather.table]).bfloat16()
        packed[gather.halves_name()] = aligned(halves.view(torch.int16).numpy().view(np.uint16))
    for node in plan.convolutions:
        choice = choices.get(node.name, Algorithm())
        name = node.packed_name(choice.algorithm)
        weights = plan.weights[node.weights]
        phased = node.by_phases(choice.algorithm)
        if phased:
            weights = phase_weights(weights)
        if choice.algorithm == INT8:
            quantized = quantize(weights, observed[node.name])
            packed[name] = aligned(_in_phases(quantized.weights, phased, _native.pack_int8))
            for scale, scales in zip(SCALES, node.scale_names(), strict=True):
                packed[scales] = getattr(quantized, scale)
        elif name not in packed:
            packed[name] = aligned(_packed(weights, choice.algorithm, level, threads, phased))
    return packed


def halved(plan: Plan, choices: Mapping[str, Algorithm]) -> list[Gather]:
    """Return the nodes whose table is kept in bfloat16."""
    gathers = (node for node in plan.nodes if isinstance(node, Gather))
    return [node for node in gathers if choices.get(node.name, Algorithm()).algorithm == HALVES]


def unpacked(plan: Plan, choices: Mapping[str, Algorithm]) -> list[str]:
    """Return the names of the weights that kernels read as they are."""
    tables = {node.name for node in halved(plan, choices)}
    used = {view.buffer for node in plan.nodes for view in node.reads()}
    for node in plan.nodes:
        packed = node.weights if isinstance(node, Conv) else None
        if node.name not in tables:
            used.update(name for name in node.weights_read() if name != packed)
    return [name for name in plan.shapes if name in used]


def phase_weights(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, C, 3, 3) for a doubled image as (4 N, C, 2, 2) for the image itself.

    The phases of the output are in rows: (even, even), (even, odd), (odd, even), (odd, odd).
    """
    on_pixels = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
    phases = np.einsum("aik,bjl,nckl->abncij", on_pixels, on_pixels, weights, optimize=True)
    return np.asarray(phases.reshape(-1, weights.shape[1], 2, 2), np.float32)


def packed_arrays(
    node: Conv, choice: Algorithm, shape: Sequence[int], panel: int
) -> dict[str, tuple[type, int]]:
    """Return the element type and number of everything that a convolution's kernel reads.

    Parameters
    ----------
    node : Conv
    choice : Algorithm
    shape : sequence of int
        Of its weights, (N, C, kernel height, kernel width).
    panel : int
        Columns that the kernels of the level take together.
    """
    phased = node.by_phases(choice.algorithm)
    arrays = {
        node.packed_name(choice.algorithm): packed_size(shape, choice.algorithm, panel, phased)
    }
    if choice.algorithm == INT8:
        outputs = shape[0] * (_PHASES if phased else 1)
        counts = {"inputs": shape[1], "outputs": outputs, "zeros": outputs, "zero": 1}
        for scale, name in zip(SCALES, node.scale_names(), strict=True):
            arrays[name] = SCALES[scale], counts[scale]
    return arrays


def packed_size(
    shape: Sequence[int], algorithm: str, panel: int, phased: bool = False
) -> tuple[type, int]:
    """Return the element type of packed weights, and how many elements they are.

    Parameters
    ----------
    shape : sequence of int
        (N, C, kernel height, kernel width).
    algorithm : str
    panel : int
        Columns that the kernels of the level take together.
    phased : bool
        What `Conv.by_phases` says.
    """
    out_channels, channels, down, across = shape
    if algorithm in TILE_CHANNELS:
        taps = 4 * _PHASES if phased else down * across
        depth = taps * _rounded_up(channels, TILE_CHANNELS[algorithm])
        dtype = np.uint16 if algorithm == TILES else np.int8
        return dtype, depth * _rounded_up(out_channels, _COLUMNS)
    points = down * across if algorithm == DIRECT else (int(algorithm[-1]) + 2) ** 2
    return np.float32, points * channels * _rounded_up(out_channels, panel)


def _rounded_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _packed(
    weights: NDArray[np.float32], algorithm: str, level: str, threads: int, phased: bool
) -> NDArray[Any]:
    if algorithm == TILES:
        return _in_phases(weights, phased, _native.pack_tiles)
    if algorithm == DIRECT:
        return _native.pack_panels(_taps(weights), level)
    return _native.pack_winograd(weights, int(algorithm[-1]), level, threads)


def _in_phases(
    weights: NDArray[_Element], phased: bool, pack_taps: Callable[[NDArray[_Element]], NDArray[Any]]
) -> NDArray[Any]:
    """Return packed tiles: of each phase, one behind the other."""
    parts = np.split(weights, _PHASES if phased else 1)
    return np.concatenate([pack_taps(_taps(part)).reshape(-1) for part in parts])


def _taps(weights: NDArray[_Element]) -> NDArray[_Element]:
    """Return (N, C, kernel height, kernel width) as (taps, C, N)."""
    out_channels, channels, down, across = weights.shape
    taps = weights.transpose(2, 3, 1, 0).reshape(down * across, channels, out_channels)
    return np.ascontiguousarray(taps)
