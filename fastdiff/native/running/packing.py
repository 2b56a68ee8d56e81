"""How a node runs, and weights in the order in which its kernel reads them then."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.native.nodes import Conv, Gather, reads, weights_of
from fastdiff.native.plan import Plan
from fastdiff.native.running.aligned import aligned
from fastdiff.native.running.quantizing import quantize

_Element = TypeVar("_Element", bound=np.generic)
Arrays = dict[str, NDArray[Any]]
"""Packed weights by name: float32, the bits of bfloat16 as uint16, or int8 and what scales it."""

ALGORITHMS = ("direct", "winograd2", "winograd4")
"""What computes in float32."""

TILES = "tiles"
"""What rounds operands to bfloat16, and sums in float32."""

INT8 = "int8"
"""What rounds operands to 8-bit integers (`quantizing`), and sums exactly."""

ATTENTION_ALGORITHMS = ("direct", TILES)
"""What computes attention: in float32, or with operands and probabilities in bfloat16."""

HALVES = "bfloat16"
"""What keeps a table of labels in bfloat16; the other choice of a `Gather` is ``"direct"``."""

TILE_CHANNELS = {TILES: 32, INT8: 64}
"""Channels of a pixel that a tile holds."""

_COLUMNS = 32  # of two tiles
_PHASES, _PHASE_PIXELS = 4, 256
_SCALES: dict[str, type] = {
    "inputs": np.float32,
    "outputs": np.float32,
    "zeros": np.int32,
    "zero": np.int32,
}


@dataclass(frozen=True)
class Algorithm:
    """How a convolution or an attention runs, or what a table of labels is kept in.

    Attributes
    ----------
    algorithm : str
        One of `ALGORITHMS`, or `TILES`, or `INT8`; of attention, one of `ATTENTION_ALGORITHMS`; of
        labels, `HALVES` or ``"direct"``.
    blocks : tuple of int
        Rows and panels of weights that a thread takes at a time; 0 leaves it to the kernel.
    """

    algorithm: str = "direct"
    blocks: tuple[int, int] = (0, 0)


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
        packed[halves_name(gather)] = aligned(halves.view(torch.int16).numpy().view(np.uint16))
    for node in plan.convolutions:
        choice = choices.get(node.name, Algorithm())
        name = packed_name(node, choice)
        weights = plan.weights[node.weights]
        phased = by_phases(node, choice.algorithm)
        if phased:
            weights = phase_weights(weights)
        if choice.algorithm == INT8:
            quantized = quantize(weights, observed[node.name])
            packed[name] = aligned(_in_phases(quantized.weights, phased, _native.pack_int8))
            for scale, scales in zip(_SCALES, scale_names(node), strict=True):
                packed[scales] = getattr(quantized, scale)
        elif name not in packed:
            packed[name] = aligned(_packed(weights, choice.algorithm, level, threads, phased))
    return packed


def halved(plan: Plan, choices: Mapping[str, Algorithm]) -> list[Gather]:
    """Return the nodes whose table is kept in bfloat16."""
    gathers = (node for node in plan.nodes if isinstance(node, Gather))
    return [node for node in gathers if choices.get(node.name, Algorithm()).algorithm == HALVES]


def halves_name(node: Gather) -> str:
    """Return what the table of a node is called in bfloat16."""
    return f"{node.table} {HALVES}"


def unpacked(plan: Plan, choices: Mapping[str, Algorithm]) -> list[str]:
    """Return the names of the weights that kernels read as they are."""
    tables = {node.name for node in halved(plan, choices)}
    used = {view.buffer for node in plan.nodes for view in reads(node)}
    for node in plan.nodes:
        packed = node.weights if isinstance(node, Conv) else None
        if node.name not in tables:
            used.update(name for name in weights_of(node) if name != packed)
    return [name for name in plan.shapes if name in used]


def by_phases(node: Conv, algorithm: str) -> bool:
    """Whether a convolution of tiles reads the image that it doubles as it is.

    Each pixel is four of the output, whose kernels of 3 x 3 then fall on 2 x 2 pixels: 4 of the 9
    products are left (csrc/network/conv_spec.h).
    """
    plain = node.kernel == (3, 3) and node.stride == 1 and node.padding == (1, 1)
    large = math.prod(node.x.shape[:2]) >= _PHASE_PIXELS
    return algorithm in TILE_CHANNELS and node.upsample and plain and large


def phase_weights(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return (N, C, 3, 3) for a doubled image as (4 N, C, 2, 2) for the image itself.

    The phases of the output are in rows: (even, even), (even, odd), (odd, even), (odd, odd).
    """
    on_pixels = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float32)
    phases = np.einsum("aik,bjl,nckl->abncij", on_pixels, on_pixels, weights, optimize=True)
    return np.asarray(phases.reshape(-1, weights.shape[1], 2, 2), np.float32)


def packed_name(node: Conv, choice: Algorithm) -> str:
    """Return what the packed weights of a convolution are called."""
    owner = node.name if choice.algorithm == INT8 else node.weights  # its inputs have their part
    phases = " phases" if by_phases(node, choice.algorithm) else ""
    return f"{owner} {choice.algorithm}{phases}"


def scale_names(node: Conv) -> list[str]:
    """Return what the parts of its `Quantized` but the weights are called, for `INT8`."""
    return [f"{node.name} {INT8} {scale}" for scale in _SCALES]


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
    phased = by_phases(node, choice.algorithm)
    arrays = {packed_name(node, choice): packed_size(shape, choice.algorithm, panel, phased)}
    if choice.algorithm == INT8:
        outputs = shape[0] * (_PHASES if phased else 1)
        counts = {"inputs": shape[1], "outputs": outputs, "zeros": outputs, "zero": 1}
        for scale, name in zip(_SCALES, scale_names(node), strict=True):
            arrays[name] = _SCALES[scale], counts[scale]
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
        What `by_phases` says.
    """
    out_channels, channels, down, across = shape
    if algorithm in TILE_CHANNELS:
        taps = 4 * _PHASES if phased else down * across
        depth = taps * _rounded_up(channels, TILE_CHANNELS[algorithm])
        dtype = np.uint16 if algorithm == TILES else np.int8
        return dtype, depth * _rounded_up(out_channels, _COLUMNS)
    points = down * across if algorithm == "direct" else (int(algorithm[-1]) + 2) ** 2
    return np.float32, points * channels * _rounded_up(out_channels, panel)


def _rounded_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _packed(
    weights: NDArray[np.float32], algorithm: str, level: str, threads: int, phased: bool
) -> NDArray[Any]:
    if algorithm == TILES:
        return _in_phases(weights, phased, _native.pack_tiles)
    if algorithm == "direct":
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
