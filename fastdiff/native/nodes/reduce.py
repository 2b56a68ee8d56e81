"""Sums and extremes along axes: what norms and averages that are written out begin with."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from numpy.typing import NDArray

from fastdiff.native.algorithms import Algorithm
from fastdiff.native.nodes.node import Node, is_vector, sizes
from fastdiff.native.reading.results import operator
from fastdiff.native.views import Shape, View, memory_order

if TYPE_CHECKING:
    from fastdiff.native.reading.reader import Reader
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses

REDUCTIONS: dict[str, Callable[[NDArray[Any]], NDArray[Any]]] = {
    "sum": lambda x: x.sum(axis=-1),
    "sum of squares": lambda x: (x * x).sum(axis=-1),
    "sum of magnitudes": lambda x: abs(x).sum(axis=-1),
    "largest": lambda x: x.max(axis=-1),
    "smallest": lambda x: x.min(axis=-1),
    "largest magnitude": lambda x: abs(x).max(axis=-1),
}
"""What each computes of (..., C), by the name that the kernel has for it."""


@dataclass(frozen=True)
class Reduce(Node):
    """``y = reduction(x)`` along the last axis; x is (rows, C), y (rows,).

    The elements of a row lie together, or the rows do.
    """

    name: str
    x: View
    y: View
    reduction: str

    method: ClassVar[str] = "reduce"

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        rows, _ = self.x.shape
        known = self.reduction in REDUCTIONS
        return known and is_vector(self.y, rows) and is_reducible(self.x)

    def compute(self, memory: Memory) -> NDArray[Any]:
        return REDUCTIONS[self.reduction](memory.view(self.x))

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        rows, channels = self.x.shape
        return {
            "x": memory.address(self.x),
            "x_row": self.x.strides[0],
            "x_step": self.x.strides[1],
            "y": memory.address(self.y),
            "images": memory.batch,
            "rows": rows,
            "channels": channels,
            "reduction": self.reduction,
        }

    @property
    def shape_text(self) -> str:
        """Of what it reduces."""
        return sizes(self.x)

    def parts(self) -> list[str]:
        return [self.reduction]


def is_reducible(x: View) -> bool:
    """Whether the elements of each row, or the rows of each element, lie together."""
    return x.together or x.permute((1, 0)).together


def _axes(r: Reader, axes: int | Sequence[int] | None) -> frozenset[int]:
    """Return which axes of an image an operator reduces, which must be some of them."""
    given = [axes] if isinstance(axes, int) else axes
    if not given:
        raise r.refuse("it reduces all axes, the batch among them")
    if r.node.all_input_nodes[0].meta["val"].dtype != torch.float32:
        raise r.refuse("it reduces labels")
    return frozenset(r.axis(axis, r.node.all_input_nodes[0]) for axis in given)


def _count(x: View, axes: frozenset[int]) -> int:
    return math.prod(x.shape[axis] for axis in axes)


def _reduced(r: Reader, reduction: str, x: View, axes: frozenset[int]) -> View:
    """Append a reduction of x, and return it with axes of one element."""
    order = memory_order(x)  # rows may be in any order, and their elements too
    kept = [axis for axis in order if axis not in axes]
    moved = x.permute([*kept, *(axis for axis in order if axis in axes)])
    count = _count(x, axes)
    shape = (x.numel // count, count)
    rows = moved.reshape(shape)
    if rows is None or not is_reducible(rows):
        rows = r.reshape(r.copy(moved, "rows"), shape)
    y = r.emit(Reduce(r.label("reduce"), rows, View.of("", shape[:1]), reduction))
    y = r.reshape(y, tuple(x.shape[axis] for axis in kept))
    y = y.permute([kept.index(axis) for axis in sorted(kept)])
    return r.reshape(y, tuple(1 if a in axes else n for a, n in enumerate(x.shape)))


def _kept(r: Reader, y: View, axes: frozenset[int], keep: bool) -> View:
    """Return what `_reduced` returned with its axes of one element or without them."""
    shape = tuple(n for axis, n in enumerate(y.shape) if axis not in axes)
    return y if keep else r.reshape(y, shape)


def _over(r: Reader, y: View, divisor: float) -> View:
    return r.elementwise("mean", [y], [("constant", 0, 0, divisor), ("divide", 0, 1, 0.0)])


def _root(r: Reader, y: View) -> View:
    return r.elementwise("root", [y], [("sqrt", 0, 0, 0.0)])


def _check_dtype(r: Reader, dtype: torch.dtype | None) -> None:
    if dtype not in {None, torch.float32}:
        raise r.refuse(f"its output is {dtype}, expected float32")


@operator("sum.dim_IntList")
def _sum(
    r: Reader,
    x: View,
    dims: Sequence[int] | None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> View:
    _check_dtype(r, dtype)
    axes = _axes(r, dims)
    return _kept(r, _reduced(r, "sum", x, axes), axes, keepdim)


@operator("mean.dim")
def _mean(
    r: Reader,
    x: View,
    dims: Sequence[int] | None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> View:
    _check_dtype(r, dtype)
    axes = _axes(r, dims)
    return _kept(r, _mean_of(r, x, axes), axes, keepdim)


def _mean_of(r: Reader, x: View, axes: frozenset[int]) -> View:
    return _over(r, _reduced(r, "sum", x, axes), _count(x, axes))


@operator("amax.default")
def _amax(r: Reader, x: View, dims: Sequence[int] = (), keepdim: bool = False) -> View:
    axes = _axes(r, dims)
    return _kept(r, _reduced(r, "largest", x, axes), axes, keepdim)


@operator("amin.default")
def _amin(r: Reader, x: View, dims: Sequence[int] = (), keepdim: bool = False) -> View:
    axes = _axes(r, dims)
    return _kept(r, _reduced(r, "smallest", x, axes), axes, keepdim)


@operator("linalg_vector_norm.default")
def _vector_norm(
    r: Reader,
    x: View,
    order: float = 2,
    dims: Sequence[int] | None = None,
    keepdim: bool = False,
    *,
    dtype: torch.dtype | None = None,
) -> View:
    _check_dtype(r, dtype)
    known = {1: "sum of magnitudes", 2: "sum of squares", math.inf: "largest magnitude"}
    if order not in known:
        raise r.refuse(f"the norm of order {order}, expected 1, 2 or infinity")
    axes = _axes(r, dims)
    y = _reduced(r, known[order], x, axes)
    return _kept(r, _root(r, y) if order == 2 else y, axes, keepdim)


@operator("norm.ScalarOpt_dim")
def _norm(
    r: Reader, x: View, order: float | None, dims: Sequence[int], keepdim: bool = False
) -> View:
    return _vector_norm(r, x, 2 if order is None else order, dims, keepdim)


@operator("var.correction", "std.correction", "var_mean.correction", "std_mean.correction")
def _variance(
    r: Reader,
    x: View,
    dims: Sequence[int] | None = None,
    *,
    correction: float | None = None,
    keepdim: bool = False,
) -> View | tuple[View, View]:
    """Read in two passes: the mean, and what is left without it."""
    axes = _axes(r, dims)
    mean = _mean_of(r, x, axes)
    left = r.elementwise("centre", [x, mean], [("subtract", 0, 1, 0.0)])
    divisor = max(0.0, _count(x, axes) - (1 if correction is None else correction))
    y = _over(r, _reduced(r, "sum of squares", left, axes), divisor)
    packet = str(r.node.target).split(".")[1]
    y = _kept(r, _root(r, y) if "std" in packet else y, axes, keepdim)
    return (y, _kept(r, mean, axes, keepdim)) if "mean" in packet else y


@operator("var.dim", "std.dim", "var_mean.dim", "std_mean.dim")
def _unbiased(
    r: Reader,
    x: View,
    dims: Sequence[int] | None,
    unbiased: bool = True,
    keepdim: bool = False,
) -> View | tuple[View, View]:
    return _variance(r, x, dims, correction=float(unbiased), keepdim=keepdim)
