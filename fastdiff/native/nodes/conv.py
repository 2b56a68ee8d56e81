"""Convolutions and linear layers, with what they take along.

What is read into them: `fastdiff.native.reading.convolutions` and `products`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastdiff.native.algorithms import EXACT, INT8, TILE_CHANNELS, TILES, Algorithm
from fastdiff.native.nodes.node import Node, as_rows, is_even, is_vector, sizes
from fastdiff.native.operations import ACTIVATIONS, activate
from fastdiff.native.views import Shape, View

if TYPE_CHECKING:
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses

_PHASE_PIXELS = 256  # of an image: with fewer, packing four kernels gains nothing
SCALES: dict[str, type] = {
    "inputs": np.float32,
    "outputs": np.float32,
    "zeros": np.int32,
    "zero": np.int32,
}
"""The parts of `fastdiff.native.running.quantizing.Quantized` but the weights."""


@dataclass(frozen=True)
class Conv(Node):
    """``y = residual + scale * activation(conv(x) + bias + shift)``; a linear layer is 1 x 1.

    Attributes
    ----------
    x, y : View
        (H, W, C) and (H', W', N): channels together, a row of pixels after the other.
    weights : str
        (N, C, kernel height, kernel width).
    bias : str or None
        (N,).
    padding : tuple of int
        Zeros above and to the left; those below and to the right follow from the sizes.
    upsample : bool
        Reads x doubled by nearest neighbours.
    shift, scale : View or None
        (N,) for each image.
    residual : View or None
        Like y.
    """

    name: str
    x: View
    y: View
    weights: str
    bias: str | None = None
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: tuple[int, int] = (0, 0)
    upsample: bool = False
    activation: str = "none"
    shift: View | None = None
    scale: View | None = None
    residual: View | None = None

    method: ClassVar[str] = "conv"
    weight_fields: ClassVar[tuple[str, ...]] = ("weights", "bias")
    algorithms: ClassVar[tuple[str, ...]] = (*EXACT, TILES, INT8)

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        images = [view for view in (self.x, self.y, self.residual) if view is not None]
        if any(len(view.shape) != 3 or not is_even(view) for view in images):
            return False
        channels, out_channels = self.x.shape[2], self.y.shape[2]
        return (
            shapes[self.weights] == (out_channels, channels, *self.kernel)
            and (self.bias is None or shapes[self.bias] == (out_channels,))
            and (self.residual is None or self.residual.shape == self.y.shape)
            and is_vector(self.shift, out_channels)
            and is_vector(self.scale, out_channels)
            and self.stride > 0
            and min(self.padding) >= 0
            and self.activation in ACTIVATIONS
        )

    def compute(self, memory: Memory) -> NDArray[Any]:
        x = memory.view(self.x)
        if self.upsample:
            x = x.repeat(2, axis=1).repeat(2, axis=2)
        weights = memory.weight(self.weights)
        height, width = self.y.shape[:2]
        top, left = self.padding
        (down, across), step = self.kernel, self.stride
        bottom = max((height - 1) * step + down - top - x.shape[1], 0)
        right = max((width - 1) * step + across - left - x.shape[2], 0)
        x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        total = np.zeros((memory.batch, *self.y.shape))
        for i in range(down):
            for j in range(across):
                rows = slice(i, i + (height - 1) * step + 1, step)
                columns = slice(j, j + (width - 1) * step + 1, step)
                total += x[:, rows, columns] @ weights[:, :, i, j].T
        total += memory.weight(self.bias)
        if self.shift is not None:
            total += memory.view(self.shift)[:, None, None]
        total = activate(self.activation, total)
        if self.scale is not None:
            total *= memory.view(self.scale)[:, None, None]
        return total if self.residual is None else total + memory.view(self.residual)

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        height, width, channels = self.x.shape
        factor = 2 if self.upsample else 1
        integers = choice.algorithm == INT8
        return {
            "x": memory.pixels(self.x),
            "y": memory.pixels(self.y),
            "images": memory.batch,
            "size": (factor * height, factor * width),
            "channels": channels,
            "out_size": self.y.shape[:2],
            "out_channels": self.y.shape[2],
            "weights": memory.weight(self.packed_name(choice.algorithm)),
            "kernel": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "upsample": self.upsample,
            "bias": memory.weight(self.bias),
            "shift": memory.vector(self.shift),
            "activation": self.activation,
            "scale": memory.vector(self.scale),
            "residual": None if self.residual is None else memory.pixels(self.residual),
            "algorithm": choice.algorithm,
            "blocks": choice.blocks,
            "quantization": memory.quantization(self.scale_names()) if integers else None,
        }

    @property
    def flops(self) -> int:
        """Those of the sums; what is taken along is not counted."""
        return 2 * self.y.numel * math.prod(self.kernel) * self.x.shape[2]

    @property
    def shape_text(self) -> str:
        """Of input and output."""
        return f"{sizes(self.x)} -> {sizes(self.y)}"

    def parts(self) -> list[str]:
        """In the order in which they are applied."""
        found = {
            "{}x{}".format(*self.kernel): self.kernel != (1, 1),
            f"stride {self.stride}": self.stride > 1,
            "upsample": self.upsample,
            "shift": self.shift is not None,
            self.activation: self.activation != "none",
            "scale": self.scale is not None,
            "residual": self.residual is not None,
        }
        return [part for part, there in found.items() if there]

    @property
    def roundable(self) -> View | None:
        """The pixels."""
        return as_rows(self.y)

    @property
    def overwritable(self) -> tuple[View, ...]:
        """The residual, unless the sums read it too."""
        if self.residual is None or self.residual.buffer == self.x.buffer:
            return ()
        return (self.residual,)

    def by_phases(self, algorithm: str) -> bool:
        """Whether tiles read the image that it doubles as it is.

        Each pixel is four of the output, whose kernels of 3 x 3 then fall on 2 x 2 pixels: 4 of the
        9 products are left (csrc/network/conv_spec.h).
        """
        plain = (self.kernel, self.stride, self.padding) == ((3, 3), 1, (1, 1))
        large = math.prod(self.x.shape[:2]) >= _PHASE_PIXELS
        return algorithm in TILE_CHANNELS and self.upsample and plain and large

    def packed_name(self, algorithm: str) -> str:
        """Return what its weights are called in the order of an algorithm."""
        owner = self.name if algorithm == INT8 else self.weights  # its inputs have their part
        phases = " phases" if self.by_phases(algorithm) else ""
        return f"{owner} {algorithm}{phases}"

    def scale_names(self) -> list[str]:
        """Return what its `SCALES` are called."""
        return [f"{self.name} {INT8} {scale}" for scale in SCALES]
