"""The calls that a plan consists of, one class for each kind of kernel (csrc/network/kinds.h)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TypeAlias

from fastdiff.native.views import View

MAP_AXES, MAP_INPUTS, MAP_STEPS = 4, 8, 24  # what the kernel takes, the image not counted

Step: TypeAlias = tuple[str, int, int, float]


@dataclass(frozen=True)
class Conv:
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


@dataclass(frozen=True)
class GroupNorm:
    """``y = activation(normalised x * gamma + beta)`` by groups of channels; x, y (pixels, C)."""

    name: str
    x: View
    y: View
    groups: int
    epsilon: float
    gamma: str | None = None
    beta: str | None = None
    activation: str = "none"


@dataclass(frozen=True)
class LayerNorm:
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


@dataclass(frozen=True)
class Attention:
    """``y = softmax(q k^T scale) v``; all views are (heads, tokens, channels)."""

    name: str
    q: View
    k: View
    v: View
    y: View
    scale: float


@dataclass(frozen=True)
class Map:
    """A program that is run element by element; without steps y is a copy of the only input.

    Attributes
    ----------
    inputs : tuple of View
        Of the shape of y.
    program : tuple of (op, a, b, constant)
        a and b are inputs, then results of steps, in order; the last step gives y.
    """

    name: str
    y: View
    inputs: tuple[View, ...]
    program: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Gather:
    """``y = table[labels]``: labels is one int64 for each image, y is (C,)."""

    name: str
    labels: View
    table: str
    y: View


Node: TypeAlias = Conv | GroupNorm | LayerNorm | Attention | Map | Gather
KINDS: dict[str, type[Node]] = {
    kind.__name__: kind for kind in (Conv, GroupNorm, LayerNorm, Attention, Map, Gather)
}


def reads(node: Node) -> Iterator[View]:
    """Yield what `node` reads, weights excepted."""
    for field in fields(node):
        value = getattr(node, field.name)
        if field.name == "inputs":
            yield from value
        elif isinstance(value, View) and field.name != "y":
            yield value


def weights_of(node: Node) -> Iterator[str]:
    """Yield the names of the weights that `node` reads by themselves, not through views."""
    for role in ("weights", "bias", "gamma", "beta", "table"):
        name = getattr(node, role, None)
        if name is not None:
            yield name


def replace_views(node: Node, change: Callable[[View], View]) -> Node:
    """Return `node` with every view changed."""
    changed: dict[str, object] = {}
    for field in fields(node):
        value = getattr(node, field.name)
        if field.name == "inputs":
            changed["inputs"] = tuple(change(view) for view in value)
        elif isinstance(value, View):
            changed[field.name] = change(value)
    return replace(node, **changed)  # type: ignore[arg-type]
