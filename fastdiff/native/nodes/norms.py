"""Group norms and layer norms. They share their operands, as their kernels share a header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdiff.native.algorithms import Algorithm
from fastdiff.native.nodes.node import Node, as_rows, is_even, is_vector
from fastdiff.native.operations import ACTIVATIONS, activate
from fastdiff.native.reading.results import operator
from fastdiff.native.views import Shape, View

if TYPE_CHECKING:
    from fastdiff.native.reading.reader import Reader
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses

_FLOAT32_EPSILON = 2.0**-23


class _Norm(Node, abstract=True):
    """What group norms and layer norms have in common: x and y of (pixels, C)."""

    x: View
    epsilon: float
    gamma: str | None
    beta: str | None

    weight_fields: ClassVar[tuple[str, ...]] = ("gamma", "beta")

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        parameters = {shapes[name] for name in (self.gamma, self.beta) if name is not None}
        rows = len(self.x.shape) == 2 and is_even(self.x) and is_even(self.y)
        return rows and self.y.shape == self.x.shape and parameters <= {self.x.shape[1:]}

    def affine(self, memory: Memory, normed: NDArray[Any]) -> NDArray[Any]:
        """Return what was normalised by the parameters, which may be absent."""
        return normed * memory.weight(self.gamma, 1.0) + memory.weight(self.beta, -0.0)

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        pixels, channels = self.x.shape
        return {
            "x": memory.pixels(self.x),
            "y": memory.pixels(self.y),
            "images": memory.batch,
            "pixels": pixels,
            "channels": channels,
            "gamma": memory.weight(self.gamma),
            "beta": memory.weight(self.beta),
            "epsilon": self.epsilon,
        }

    @property
    def roundable(self) -> View | None:
        """The pixels."""
        return as_rows(self.y)


@dataclass(frozen=True)
class GroupNorm(_Norm):
    """``y = activation(normalised x * gamma + beta)`` by groups of channels; x, y (pixels, C)."""

    name: str
    x: View
    y: View
    groups: int
    epsilon: float
    gamma: str | None = None
    beta: str | None = None
    activation: str = "none"

    method: ClassVar[str] = "group_norm"

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        groups = super().fits(shapes) and self.groups > 0 and self.x.shape[1] % self.groups == 0
        return groups and self.activation in ACTIVATIONS

    def compute(self, memory: Memory) -> NDArray[Any]:
        x = memory.view(self.x)
        groups = x.reshape(*x.shape[:2], self.groups, -1)
        mean = groups.mean(axis=(1, 3), keepdims=True)
        variance = groups.var(axis=(1, 3), keepdims=True)
        normed = ((groups - mean) / np.sqrt(variance + self.epsilon)).reshape(x.shape)
        return activate(self.activation, self.affine(memory, normed))

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        own = {"groups": self.groups, "activation": self.activation}
        return {**super().arguments(memory, choice), **own}

    def parts(self) -> list[str]:
        activation = [] if self.activation == "none" else [self.activation]
        return [f"{self.groups} groups", *activation]

    @property
    def overwritable(self) -> tuple[View, ...]:
        """Its input: the sums over it are a stage of their own."""
        return (self.x,)


@dataclass(frozen=True)
class LayerNorm(_Norm):
    """``y = (normalised x * gamma + beta) * (1 + scale) + shift`` by pixels; x, y (pixels, C).

    Without `centred` nothing is subtracted: the root mean square alone.
    """

    name: str
    x: View
    y: View
    epsilon: float
    gamma: str | None = None
    beta: str | None = None
    centred: bool = True
    scale: View | None = None
    shift: View | None = None

    method: ClassVar[str] = "layer_norm"

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        channels = self.x.shape[-1]
        vectors = is_vector(self.scale, channels) and is_vector(self.shift, channels)
        return vectors and super().fits(shapes)

    def compute(self, memory: Memory) -> NDArray[Any]:
        x = memory.view(self.x)
        x = x - x.mean(axis=-1, keepdims=True) if self.centred else x
        y = self.affine(memory, x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon))
        if self.scale is not None:
            y = y * (1 + memory.view(self.scale)[:, None])
        return y if self.shift is None else y + memory.view(self.shift)[:, None]

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        own = {
            "scale": memory.vector(self.scale),
            "shift": memory.vector(self.shift),
            "centred": self.centred,
        }
        return {**super().arguments(memory, choice), **own}

    def parts(self) -> list[str]:
        found = {
            "root mean square": not self.centred,
            "scale": self.scale is not None,
            "shift": self.shift is not None,
        }
        return [part for part, there in found.items() if there]


@operator("group_norm.default")
def _group_norm(
    r: Reader,
    x: View,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> View:
    if r.image_shape(r.node.all_input_nodes[0])[1] != 1:
        raise r.refuse("it normalises parts of a batch")
    axes = [*range(1, len(x.shape)), 0]
    last = x.permute(axes)
    rows = r.rows(last)
    gamma, beta = (r.vector(w, rows.shape[1]) for w in (weight, bias))
    y = r.emit(GroupNorm(r.scope(), rows, View.of("", rows.shape), groups, eps, gamma, beta))
    return r.reshape(y, last.shape).permute((len(axes) - 1, *range(len(axes) - 1)))


@operator("layer_norm.default")
def _layer_norm(
    r: Reader,
    x: View,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = False,
    centred: bool = True,
) -> View:
    if len(normalized_shape) != 1:
        raise r.refuse(f"it normalises over {len(normalized_shape)} axes, the kernel over one")
    rows = r.rows(x)
    gamma, beta = (r.vector(w, rows.shape[1]) for w in (weight, bias))
    y = r.emit(LayerNorm(r.scope(), rows, View.of("", rows.shape), eps, gamma, beta, centred))
    return r.reshape(y, x.shape)


@operator("rms_norm.default")
def _rms_norm(
    r: Reader,
    x: View,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> View:
    eps = _FLOAT32_EPSILON if eps is None else eps  # as torch does
    return _layer_norm(r, x, normalized_shape, weight, None, eps, centred=False)
