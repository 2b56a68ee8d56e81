"""Means over windows of an image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastdiff.native.algorithms import Algorithm
from fastdiff.native.nodes.node import Node, as_rows, is_even, sizes
from fastdiff.native.reading.results import operator, pair
from fastdiff.native.views import Shape, View

if TYPE_CHECKING:
    from fastdiff.native.reading.reader import Reader
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses


@dataclass(frozen=True)
class AveragePool(Node):
    """``y = sum(x in the window) / divisor``, by the channels of each window.

    Attributes
    ----------
    x, y : View
        (H, W, C) and (H', W', C). The last windows may reach beyond the padding: y says how many
        there are.
    kernel, stride : tuple of int
        Down and across.
    padding : tuple of int
        Zeros above and below, to the left and to the right.
    count_include_pad : bool
        Whether the divisor of a window is of all its pixels within the padding, or only of those
        of the image.
    divisor_override : int or None
        Of every window instead.
    """

    name: str
    x: View
    y: View
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    count_include_pad: bool = True
    divisor_override: int | None = None

    method: ClassVar[str] = "average_pool"

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        images = len(self.x.shape) == len(self.y.shape) == 3 and is_even(self.x) and is_even(self.y)
        return (
            images
            and self.x.shape[2] == self.y.shape[2]
            and self.divisor_override != 0
            and all(self._covers(axis) for axis in (0, 1))
        )

    def _covers(self, axis: int) -> bool:
        """Whether there are as many windows as torch says, each with a pixel of the image."""
        along = self.x.shape[axis], self.kernel[axis], self.stride[axis], self.padding[axis]
        valid = self.stride[axis] > 0 and 0 <= 2 * self.padding[axis] <= self.kernel[axis] > 0
        return valid and self.y.shape[axis] in {_windows(*along, ceil) for ceil in (False, True)}

    def compute(self, memory: Memory) -> NDArray[Any]:
        x, y = memory.view(self.x), np.empty((memory.batch, *self.y.shape))
        rows, columns = self._spans(0), self._spans(1)
        for i, (down, height) in enumerate(rows):
            for j, (across, width) in enumerate(columns):
                divisor = self.divisor_override or height * width
                y[:, i, j] = x[:, down, across].sum(axis=(1, 2)) / divisor
        return y

    def _spans(self, axis: int) -> list[tuple[slice, int]]:
        """Return what each window holds of an axis of the image, and how much of it counts."""
        size, kernel, padding = self.x.shape[axis], self.kernel[axis], self.padding[axis]
        spans = []
        for index in range(self.y.shape[axis]):
            start = index * self.stride[axis] - padding
            stop = min(start + kernel, size + padding)
            inside = range(max(start, 0), min(stop, size))
            counted = stop - start if self.count_include_pad else len(inside)
            spans.append((slice(inside.start, inside.stop), counted))
        return spans

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        return {
            "x": memory.pixels(self.x),
            "y": memory.pixels(self.y),
            "images": memory.batch,
            "channels": self.x.shape[2],
            "size": self.x.shape[:2],
            "out_size": self.y.shape[:2],
            "kernel": self.kernel,
            "stride": self.stride,
            "padding": self.padding,
            "count_include_pad": self.count_include_pad,
            "divisor": self.divisor_override or 0,
        }

    @property
    def shape_text(self) -> str:
        """Of input and output."""
        return f"{sizes(self.x)} -> {sizes(self.y)}"

    def parts(self) -> list[str]:
        """Name what differs from windows that lie side by side."""
        found = {
            "stride {}x{}".format(*self.stride): self.stride != self.kernel,
            "padding {}x{}".format(*self.padding): self.padding != (0, 0),
            "padding not counted": self.padding != (0, 0) and not self.count_include_pad,
            f"divisor {self.divisor_override}": self.divisor_override is not None,
        }
        return ["{}x{}".format(*self.kernel), *(part for part, there in found.items() if there)]

    @property
    def roundable(self) -> View | None:
        """The pixels."""
        return as_rows(self.y)


def _windows(size: int, kernel: int, stride: int, padding: int, ceil_mode: bool) -> int:
    """Return how many windows torch lays along an axis.

    All lie within the padding. With `ceil_mode` one more reaches beyond it, if it begins before
    the padding at the end does.
    """
    room = size + 2 * padding - kernel
    whole = room // stride + 1
    more = ceil_mode and room % stride > 0 and whole * stride < size + padding
    return whole + more


@operator("avg_pool2d.default")
def _avg_pool2d(
    r: Reader,
    x: View,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int] = (),
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> View:
    kernel, pads = pair(kernel_size), pair(padding)
    steps = pair(stride) if stride else kernel
    *leading, height, width = x.shape  # what is not pooled over becomes the channels
    pixels = r.pixels(r.reshape(x, (math.prod(leading), height, width)))
    size = tuple(
        _windows(*along, ceil_mode)
        for along in zip((height, width), kernel, steps, pads, strict=True)
    )
    y = r.emit(
        AveragePool(
            r.label("average_pool"), pixels, View.of("", (*size, pixels.shape[2])),
            kernel, steps, pads, count_include_pad, divisor_override,
        )
    )  # fmt: skip
    return r.reshape(y.permute((2, 0, 1)), (*leading, *size))


@operator("adaptive_avg_pool2d.default")
def _adaptive_avg_pool2d(r: Reader, x: View, output_size: Sequence[int]) -> View:
    height, width = x.shape[-2:]
    down, across = output_size
    if height % down or width % across:
        raise r.refuse(
            f"its windows differ in size: {height}x{width} pixels, {down}x{across} windows"
        )
    return _avg_pool2d(r, x, (height // down, width // across))
