"""What operators read and return, and which function reads which operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from fastdiff.native.views import Shape, View


@dataclass(frozen=True)
class Rows:
    """A whole number that depends on the batch: only sizes of tensors may be made of it.

    Attributes
    ----------
    expression : sympy.Expr
        In the size of the batch.
    """

    expression: Any

    def at(self, batch: int) -> int:
        """Return the number for a batch of this size."""
        return int(self.expression.subs(dict.fromkeys(self.expression.free_symbols, batch)))


@dataclass(frozen=True)
class Padded:
    """A view with zeros around its last two axes, which only a convolution can read."""

    view: View
    top: int
    left: int
    bottom: int
    right: int

    @property
    def shape(self) -> Shape:
        """Shape with the zeros."""
        *rest, height, width = self.view.shape
        return (*rest, self.top + height + self.bottom, self.left + width + self.right)


@dataclass(frozen=True)
class Doubled:
    """A (C, H, W) view of which every pixel is to be repeated 2 x 2 times."""

    view: View

    @property
    def shape(self) -> Shape:
        """(C, 2H, 2W)."""
        channels, height, width = self.view.shape
        return (channels, 2 * height, 2 * width)


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """Return (rows, columns) of an argument that may say both at once."""
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


@dataclass(frozen=True)
class Moved:
    """A tensor whose batch axis is not the first; until it is, elements can only be rearranged.

    Attributes
    ----------
    view : View
        Of one image.
    batch : int
        The batch axis of the tensor.
    """

    view: View
    batch: int

    def axis(self, axis: int) -> int:
        """Return which axis of `view` an axis of the tensor is, which is not the batch."""
        return axis - (axis > self.batch)

    def with_view(self, view: View, batch: int) -> View | Moved:
        """Return another view with its batch axis, which may have come to the front."""
        return Moved(view, batch) if batch else view


_Function = TypeVar("_Function", bound=Callable[..., object])
Result: TypeAlias = (
    "View | Padded | Doubled | Moved | Tensor | int | float | tuple[Any, ...] | None"
)

OPERATORS: dict[str, Callable[..., object]] = {}
SIZED: set[str] = set()
"""Operators whose arguments may hold the size of the batch: their result's shape says all of it."""

MOVABLE: set[str] = set()
"""Operators that read `Moved` tensors, which the others refuse."""

DELAYED: set[str] = set()
"""Operators that read `Padded` and `Doubled` views, which the others are given in memory."""


def operator(
    *names: str, sized: bool = False, delayed: bool = False, movable: bool = False
) -> Callable[[_Function], _Function]:
    """Register what reads ``aten.<name>``: a function of the reader and the call's arguments.

    A parameter that is annotated as `View` or `Tensor` refuses what is not. So is an argument of
    the operator that the function has no parameter for: whatever it takes, it must heed.
    """

    def register(function: _Function) -> _Function:
        OPERATORS.update({f"aten.{name}": function for name in names})
        SIZED.update(f"aten.{name}" for name in names if sized)
        DELAYED.update(f"aten.{name}" for name in names if delayed)
        MOVABLE.update(f"aten.{name}" for name in names if movable)
        return function

    return register
