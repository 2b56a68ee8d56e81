"""How a node runs: the names of what its kernel may do, and what measuring chose among them."""

from __future__ import annotations

from dataclasses import dataclass

DIRECT = "direct"
"""The plain way, which every kind of node has."""

EXACT = (DIRECT, "winograd2", "winograd4")
"""What computes a convolution in float32."""

TILES = "tiles"
"""What rounds operands to bfloat16, and sums in float32."""

INT8 = "int8"
"""What rounds operands to 8-bit integers (`fastdiff.native.running.quantizing`), sums exactly."""

HALVES = "bfloat16"
"""What keeps a table of labels in bfloat16."""

TILE_CHANNELS = {TILES: 32, INT8: 64}
"""Channels of a pixel that a tile holds."""


@dataclass(frozen=True)
class Algorithm:
    """How one node runs.

    Attributes
    ----------
    algorithm : str
        One of those that the node's kind lists as `Node.algorithms`.
    blocks : tuple of int
        Rows and panels of weights that a thread takes at a time; 0 leaves it to the kernel.
    """

    algorithm: str = DIRECT
    blocks: tuple[int, int] = (0, 0)
