"""Convolutions in one axis and in two, and transposed ones: all become nodes of one kind."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from fastdiff.native.nodes import Conv
from fastdiff.native.reading.reader import Reader
from fastdiff.native.reading.results import Doubled, Padded, operator, pair
from fastdiff.native.views import View

_MOST_GROUPS = 16  # each becomes a convolution of its own


@operator("conv2d.default", "conv1d.default", delayed=True)
def _convolution(
    r: Reader,
    x: View | Padded | Doubled,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> View:
    axes = weight.ndim - 2
    down, across = pair(stride)
    if pair(dilation) != (1, 1) or down != across or groups > _MOST_GROUPS:
        raise r.refuse(f"groups {groups}, dilation {dilation}, stride {stride}")
    top, left = (0, pair(padding)[1]) if axes == 1 else pair(padding)
    bottom, right = top, left
    if isinstance(x, Padded):
        top, left = top + x.top, left + x.left
        bottom, right = bottom + x.bottom, right + x.right
    image = _image(r, x.view if isinstance(x, (Padded, Doubled)) else x, axes)
    weight = _weight(weight)
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    factor = 2 if isinstance(x, Doubled) else 1
    height, width = (factor * n for n in image.shape[1:])
    size = (
        (height + top + bottom - kernel[0]) // down + 1,
        (width + left + right - kernel[1]) // down + 1,
    )
    outputs = int(weight.shape[0]) // groups
    parts = []
    for group in range(groups):
        channels, own = int(weight.shape[1]), slice(group * outputs, (group + 1) * outputs)
        pixels = r.pixels(image.slice(0, group * channels, (group + 1) * channels))
        node = Conv(
            r.scope(), pixels, View.of("", (*size, outputs)),
            r.weight(weight if groups == 1 else weight[own].clone()),
            r.vector(bias if bias is None or groups == 1 else bias[own].clone(), outputs),
            kernel, down, (top, left), isinstance(x, Doubled),
        )  # fmt: skip
        parts.append(r.emit(node).permute((2, 0, 1)))
    y = parts[0] if groups == 1 else r.concatenate(parts, 0)
    return y if axes == 2 else y.drop(1)


@operator("conv_transpose2d.input", "conv_transpose1d.default")
def _transposed(
    r: Reader,
    x: View,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> View:
    """Read a convolution to the pixels that each pixel becomes, which are then moved apart."""
    if groups != 1 or pair(dilation) != (1, 1):
        raise r.refuse(f"groups {groups}, dilation {dilation}")
    axes = weight.ndim - 2
    image, weight = _image(r, x, axes), _weight(weight)
    options = [pair(stride), pair(padding), pair(output_padding)]
    plain = axes == 1  # then there is one row
    down = _Phases(
        image.shape[1], int(weight.shape[2]), *((1, 0, 0) if plain else (o[0] for o in options))
    )
    across = _Phases(image.shape[2], int(weight.shape[3]), *(o[1] for o in options))
    channels, outputs = int(weight.shape[0]), int(weight.shape[1])
    apart = torch.zeros(down.stride, across.stride, outputs, channels, down.taps, across.taps)
    for (i, row), (j, column) in itertools.product(down.sources(), across.sources()):
        apart[i[0], j[0], :, :, i[1], j[1]] = weight[:, :, row, column].T
    name = r.weight(apart.flatten(0, 2), r.label("phases.weight"))
    count = down.stride * across.stride
    biases = None if bias is None else r.weight(bias.repeat(count), r.label("phases.bias"))
    node = Conv(
        r.scope(), r.pixels(image), View.of("", (down.steps, across.steps, count * outputs)),
        name, biases, (down.taps, across.taps), 1, (down.before, across.before),
    )  # fmt: skip
    y = r.reshape(r.emit(node), (down.steps, across.steps, down.stride, across.stride, outputs))
    if count > 1:
        y = r.copy(y.permute((0, 2, 1, 3, 4)), "depth_to_space")
    y = r.reshape(y, (down.steps * down.stride, across.steps * across.stride, outputs))
    y = y.slice(0, 0, down.size).slice(1, 0, across.size).permute((2, 0, 1))
    return y if axes == 2 else y.drop(1)


class _Phases:
    """One axis of a transposed convolution: ``stride`` convolutions that take turns.

    Output o = stride m + phase is the sum over the kernel's elements k of weight[k] x[m + d], with
    stride d = phase + padding - k.

    Attributes
    ----------
    size, steps : int
        Of the output, and of the turns that make it.
    taps, before : int
        Of the convolutions, and the zeros before their input.
    """

    def __init__(
        self, length: int, kernel: int, stride: int, padding: int, output_padding: int
    ) -> None:
        self.stride, self._kernel, self._padding = stride, kernel, padding
        self.size = (length - 1) * stride - 2 * padding + kernel + output_padding
        self.steps = -(-self.size // stride)
        shifts = [(phase + padding - k) // stride for phase, k in self._pairs()]
        self.before = max(0, -min(shifts))
        self.taps = max(shifts) + self.before + 1

    def _pairs(self) -> list[tuple[int, int]]:
        """Return each phase with the kernel's elements that it sums over."""
        return [
            (phase, k)
            for phase in range(self.stride)
            for k in range(self._kernel)
            if (phase + self._padding - k) % self.stride == 0
        ]

    def sources(self) -> list[tuple[tuple[int, int], int]]:
        """Return ((phase, tap), element of the kernel) of all that is not zero."""
        return [
            ((phase, (phase + self._padding - k) // self.stride + self.before), k)
            for phase, k in self._pairs()
        ]


def _image(r: Reader, view: View, axes: int) -> View:
    """Return (C, H, W): a sequence (C, L) is an image of one row."""
    if len(view.shape) != axes + 1:
        raise r.refuse(f"expected {axes} axes after the channels, got {view.shape} for each image")
    return view if axes == 2 else r.reshape(view, (view.shape[0], 1, view.shape[1]))


def _weight(weight: Tensor) -> Tensor:
    """Return a weight with both axes of the kernel."""
    return weight if weight.ndim == 4 else weight.unsqueeze(2)
