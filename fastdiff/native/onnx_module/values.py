"""What operators read and return, and which function computes which operator.

A value is a tensor, a `Deferred` one, or, if it is a constant or a shape, a NumPy array. What
depends on constants alone was computed before (`folding.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from fastdiff.native.onnx_module.deferred import Deferred
from fastdiff.native.onnx_module.folding import Array, Unreadable

Value: TypeAlias = "Tensor | Array | Deferred | None"
Operator: TypeAlias = Callable[..., "Value | tuple[Value, ...]"]

OPERATORS: dict[str, Operator] = {}


def operator(*names: str) -> Callable[[Operator], Operator]:
    """Register what computes the operators `names`: a function of values and attributes."""

    def register(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return register


def tensor(value: Value) -> Tensor:
    """Return a value as a tensor, in float32 if it has a fraction."""
    if isinstance(value, Deferred):
        return value.value
    if isinstance(value, np.ndarray):
        made = torch.from_numpy(np.array(value))
        return made.to(torch.float32) if made.is_floating_point() else made
    if value is None:
        raise Unreadable("an input is missing")
    return value


def constant(value: Value) -> Array:
    """Return a value that must be known beforehand."""
    if not isinstance(value, np.ndarray):
        raise Unreadable("an input must be a constant, and depends on the network's inputs")
    return value


def number(value: Value) -> float | None:
    """Return a constant of one element, which has no shape to broadcast; else None.

    A whole number stays one: torch makes floats of integers that meet a float.
    """
    one = isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= 1
    if not one:
        return None
    item = value.item()  # type: ignore[union-attr]
    return item if isinstance(item, int) else float(item)


def operand(value: Value) -> Tensor | float:
    """Return an operand of an element-wise operator; a number alone is no tensor."""
    alone = number(value)
    return tensor(value) if alone is None else alone


def is_weight(value: Value) -> bool:
    """Whether a value is a parameter of the network."""
    return isinstance(value, torch.nn.Parameter)


def begin_end(pads: Sequence[int]) -> list[tuple[int, int]]:
    """Return what is padded before and behind each axis."""
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))
