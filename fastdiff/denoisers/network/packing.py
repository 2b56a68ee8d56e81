"""How a convolution runs, and its weights in the order in which it reads them then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.denoisers.network.nodes import Conv
from fastdiff.denoisers.network.plan import Plan

Arrays = dict[str, NDArray[Any]]
"""Packed weights by name: float32, or the bits of bfloat16 as uint16."""

ALGORITHMS = ("direct", "winograd2", "winograd4")
"""What computes in float32."""

TILES = "tiles"
"""What rounds operands to bfloat16, and sums in float32."""

_TILE = 32  # channels, and columns


@dataclass(frozen=True)
class Choice:
    """How a convolution runs.

    Attributes
    ----------
    algorithm : str
        One of `ALGORITHMS`, or `TILES`.
    blocks : tuple of int
        Rows and panels of weights that a thread takes at a time; 0 leaves it to the kernel.
    """

    algorithm: str = "direct"
    blocks: tuple[int, int] = (0, 0)


def pack(plan: Plan, choices: Mapping[str, Choice], level: str = "", threads: int = 1) -> Arrays:
    """Return the weights as the kernels read them, by name.

    Parameters
    ----------
    plan : Plan
    choices : mapping of str to Choice
        By names of convolutions; the others run directly.
    level : str
        Of the kernels; "" for the best.
    threads : int
    """
    convolved = {node.weights for node in plan.convolutions}
    packed: Arrays = {
        name: np.ascontiguousarray(array)
        for name, array in plan.weights.items()
        if name not in convolved
    }
    for node in plan.convolutions:
        choice = choices.get(node.name, Choice())
        name = packed_name(node, choice)
        if name not in packed:
            packed[name] = _packed(plan.weights[node.weights], choice.algorithm, level, threads)
    return packed


def packed_name(node: Conv, choice: Choice) -> str:
    """Return what the packed weights of a convolution are called."""
    return f"{node.weights} {choice.algorithm}"


def packed_size(shape: Sequence[int], algorithm: str, panel: int) -> tuple[type, int]:
    """Return the element type of packed weights, and how many elements they are.

    Parameters
    ----------
    shape : sequence of int
        (N, C, kernel height, kernel width).
    algorithm : str
    panel : int
        Columns that the kernels of the level take together.
    """
    out_channels, channels, down, across = shape
    if algorithm == TILES:
        return np.uint16, down * across * _rounded_up(out_channels, _TILE) * _rounded_up(
            channels, _TILE
        )
    points = down * across if algorithm == "direct" else (int(algorithm[-1]) + 2) ** 2
    return np.float32, points * channels * _rounded_up(out_channels, panel)


def _rounded_up(count: int, unit: int) -> int:
    return -(-count // unit) * unit


def _packed(weights: NDArray[np.float32], algorithm: str, level: str, threads: int) -> NDArray[Any]:
    if algorithm not in {"direct", TILES}:
        return _native.pack_winograd(weights, int(algorithm[-1]), level, threads)
    out_channels, channels, down, across = weights.shape
    taps = weights.transpose(2, 3, 1, 0).reshape(down * across, channels, out_channels)
    taps = np.ascontiguousarray(taps)
    return _native.pack_tiles(taps) if algorithm == TILES else _native.pack_panels(taps, level)
