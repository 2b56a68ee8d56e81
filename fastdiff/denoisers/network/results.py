"""What operators read and return, and which function reads which operator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from fastdiff.denoisers.network.views import View


class Rows(int):
    """A number that depends on the batch: no operator may compute with it."""


@dataclass(frozen=True)
class Padded:
    """A view with zeros around its last two axes, which only a convolution can read."""

    view: View
    top: int
    left: int
    bottom: int
    right: int


@dataclass(frozen=True)
class Doubled:
    """A (C, H, W) view of which every pixel is to be repeated 2 x 2 times."""

    view: View


_Function = TypeVar("_Function", bound=Callable[..., object])
Result: TypeAlias = "View | Padded | Doubled | Tensor | int | float | tuple[Any, ...] | None"

OPERATORS: dict[str, Callable[..., object]] = {}


def operator(*names: str) -> Callable[[_Function], _Function]:
    """Register what reads ``aten.<name>``: a function of the reader and the call's arguments."""

    def register(function: _Function) -> _Function:
        OPERATORS.update({f"aten.{name}": function for name in names})
        return function

    return register
