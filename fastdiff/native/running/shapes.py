"""What nodes have in common that take the same time: the cases that `choosing` measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from fastdiff._native import NetworkPlan
from fastdiff.native.algorithms import EXACT, INT8, TILES, Algorithm
from fastdiff.native.nodes import Attention, Conv
from fastdiff.native.running.packing import packed_size
from fastdiff.native.running.quantizing import MOST_TERMS

_BLOCKS = {
    "direct": ((24, 8), (96, 2), (48, 1), (48, 4), (192, 2)),
    "winograd2": ((0, 2), (0, 1), (0, 4)),
    "winograd4": ((0, 2), (0, 1), (0, 4)),
    TILES: ((64, 2), (32, 1), (128, 2), (64, 4), (128, 4)),
    INT8: ((64, 2), (32, 1), (128, 2), (64, 4), (128, 4)),
}
_LEAST_CHANNELS = {TILES: 16, INT8: 32}  # half a tile: fewer are not worth rounding


@dataclass(frozen=True)
class ConvShape:
    """Of convolutions."""

    size: tuple[int, int]
    channels: int
    out_size: tuple[int, int]
    out_channels: int
    kernel: tuple[int, int]
    stride: int
    padding: tuple[int, int]
    upsample: bool

    @classmethod
    def of(cls, node: Conv) -> ConvShape:
        height, width, channels = node.x.shape
        factor = 2 if node.upsample else 1
        return cls(
            (factor * height, factor * width), channels, (node.y.shape[0], node.y.shape[1]),
            node.y.shape[2], node.kernel, node.stride, node.padding, node.upsample,
        )  # fmt: skip

    @property
    def floats(self) -> int:
        """Of input and output, for one image."""
        return sum(self._sides)

    def algorithms(self, precision: str) -> tuple[str, ...]:
        """Return those that may compute it: integers beside the exact ones, which can be faster."""
        if precision == "bfloat16" and self.channels >= _LEAST_CHANNELS[TILES]:
            return (TILES,)
        exact = EXACT if self.kernel == (3, 3) and self.stride == 1 else EXACT[:1]
        terms = self.kernel[0] * self.kernel[1] * self.channels
        integers = self.channels >= _LEAST_CHANNELS[INT8] and terms <= MOST_TERMS
        return (INT8, *exact) if precision == "int8" and integers else exact

    def blocks(self, algorithm: str) -> tuple[tuple[int, int], ...]:
        """Return those to try, a good guess first."""
        return _BLOCKS[algorithm]

    def packed_floats(self, algorithm: str, panel: int) -> int:
        """Return how many floats are as large as its packed weights, or larger."""
        weights = (self.out_channels, self.channels, *self.kernel)
        dtype, packed = packed_size(weights, algorithm, panel, phased=self.upsample)
        return packed * np.dtype(dtype).itemsize // 4

    def add(self, plan: NetworkPlan, choice: Algorithm, batch: int, x: int, weights: int) -> None:
        """Append it to a plan; input and output are from address `x` on."""
        inputs, outputs = self._sides
        plan.conv(
            "conv",
            x=(x, inputs, self.channels),
            y=(x + 4 * batch * inputs, outputs, self.out_channels),
            images=batch,
            size=self.size,
            channels=self.channels,
            out_size=self.out_size,
            out_channels=self.out_channels,
            weights=weights,
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            upsample=self.upsample,
            algorithm=choice.algorithm,
            blocks=choice.blocks,
            quantization=(x, x, x, 128) if choice.algorithm == INT8 else None,
        )

    @property
    def _sides(self) -> tuple[int, int]:
        """Floats of an image's input, and of its output."""
        height, width = (n // 2 for n in self.size) if self.upsample else self.size
        inputs = height * width * self.channels
        return inputs, self.out_size[0] * self.out_size[1] * self.out_channels


@dataclass(frozen=True)
class AttentionShape:
    """The same of attentions, which have no weights, and blocks of their own."""

    heads: int
    queries: int
    keys: int
    depth: int
    value_depth: int

    @classmethod
    def of(cls, node: Attention) -> AttentionShape:
        heads, queries, depth = node.q.shape
        return cls(heads, queries, node.k.shape[1], depth, node.v.shape[2])

    @property
    def floats(self) -> int:
        return self.heads * (self.queries + self.keys) * (self.depth + self.value_depth)

    def algorithms(self, precision: str) -> tuple[str, ...]:
        return Attention.algorithms if precision == "bfloat16" else Attention.algorithms[:1]

    def blocks(self, algorithm: str) -> tuple[tuple[int, int], ...]:
        return ((0, 0),)

    def packed_floats(self, algorithm: str, panel: int) -> int:
        return 0

    def add(self, plan: NetworkPlan, choice: Algorithm, batch: int, x: int, weights: int) -> None:
        """Heads of a token lie beside each other, as a projection leaves them."""
        operands = {}
        sizes = {"q": (self.queries, self.depth), "k": (self.keys, self.depth)}
        sizes |= {"v": (self.keys, self.value_depth), "y": (self.queries, self.value_depth)}
        for name, (tokens, channels) in sizes.items():
            token = self.heads * channels
            operands[name] = x, tokens * token, channels, token
            x += 4 * batch * tokens * token
        plan.attention(
            "attention",
            **operands,
            images=batch,
            heads=self.heads,
            queries=self.queries,
            keys=self.keys,
            depth=self.depth,
            value_depth=self.value_depth,
            scale=1.0,
            algorithm=choice.algorithm,
        )


AnyShape: TypeAlias = ConvShape | AttentionShape
