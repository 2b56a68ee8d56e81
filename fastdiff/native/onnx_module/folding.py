"""Operators on constants and shapes, in NumPy.

A shape of which an axis is open is an array of objects: the whole numbers in it, and torch's
symbols for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import helper

Array = NDArray[Any]
MOST = 1 << 26
"""Elements that a file may have computed without holding them."""


class Unreadable(Exception):
    """An operator, or what it is asked for, that is not known here; the message says which."""


FOLDING: dict[str, Callable[..., Array]] = {}


def folding(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what computes the operators `names`: a function of arrays and attributes."""

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        FOLDING.update(dict.fromkeys(names, function))
        return function

    return register


def folds(operator: str, inputs: Sequence[object]) -> bool:
    """Whether an operator on these inputs is computed here, which makes no array of open size."""
    if operator not in FOLDING:
        return False
    sizes = inputs[1:] if operator in {"Expand", "Reshape"} else inputs
    asks = operator in {"Expand", "Reshape", "ConstantOfShape", "Range"}
    return all(value is None or isinstance(value, np.ndarray) for value in inputs) and not (
        asks and any(_is_open(value) for value in sizes)
    )


def fold(operator: str, inputs: Sequence[Any], attributes: Mapping[str, Any]) -> Array:
    """Compute an operator of which `folds` is true.

    Raises
    ------
    Unreadable
        It is asked for something that is not known here.
    """
    try:
        with np.errstate(all="ignore"):  # infinities and NaN are numbers like others
            return np.asarray(FOLDING[operator](*inputs, **attributes))
    except (TypeError, ValueError, IndexError) as error:
        raise Unreadable(str(error)) from error


def _is_open(value: object) -> bool:
    return isinstance(value, np.ndarray) and any(not isinstance(n, int) for n in integers(value))


def small(array: Array) -> Array:
    """Return `array`, or refuse one that is larger than a graph has reason to make.

    Raises
    ------
    ValueError
        It has more than `MOST` elements.
    """
    if array.size > MOST:
        raise ValueError(f"a constant of {array.size} elements")
    return array


def integers(values: Array) -> list[int]:
    """Return a shape or axes as a list; symbols stay as they are."""
    return [int(v) if isinstance(v, (int, np.number)) else v for v in np.ravel(values)]


_UFUNCS: dict[str, Callable[..., Any]] = {
    "Add": np.add, "Sub": np.subtract, "Mul": np.multiply, "Equal": np.equal, "Neg": np.negative,
    "Less": np.less, "Greater": np.greater, "And": np.logical_and, "Or": np.logical_or,
    "Not": np.logical_not, "Sqrt": np.sqrt, "Exp": np.exp, "Log": np.log, "Sin": np.sin,
    "Cos": np.cos, "Floor": np.floor, "Ceil": np.ceil, "Reciprocal": np.reciprocal,
    "Identity": np.asarray,
}  # fmt: skip
for _name, _function in _UFUNCS.items():
    folding(_name)(_function)


@folding("Div")
def _div(a: Array, b: Array) -> Array:
    kind = np.result_type(a, b).kind
    if kind == "O":  # sizes, never negative
        return np.asarray(a // b)
    if kind not in "iu":  # bfloat16 has a kind of its own
        return np.asarray(a / b)
    whole = np.abs(a) // np.abs(b)  # ONNX rounds towards zero, NumPy down
    return np.asarray(np.where((a < 0) != (b < 0), -whole, whole))


@folding("Pow")
def _pow(a: Array, b: Array) -> Array:
    return np.asarray(np.power(a, b), a.dtype)


@folding("Cast")
def _cast(x: Array, *, to: int) -> Array:
    dtype = helper.tensor_dtype_to_np_dtype(to)
    return x if x.dtype == object and dtype.kind == "i" else x.astype(dtype)


@folding("Shape")
def _shape(x: Array, *, start: int = 0, end: int | None = None) -> Array:
    return np.array(x.shape[start:end], np.int64)


@folding("Gather")
def _gather(x: Array, indices: Array, *, axis: int = 0) -> Array:
    return np.asarray(np.take(x, indices.astype(np.int64), axis))


@folding("Concat")
def _concat(*parts: Array, axis: int) -> Array:
    return small(np.concatenate(parts, axis))


@folding("Slice")
def _slice(
    x: Array, starts: Array, ends: Array, axes: Array | None = None, steps: Array | None = None
) -> Array:
    return x[slices(x.ndim, starts, ends, axes, steps)]


@folding("Unsqueeze")
def _unsqueeze(x: Array, axes: Array) -> Array:
    return np.expand_dims(x, integers(axes))


@folding("Squeeze")
def _squeeze(x: Array, axes: Array | None = None) -> Array:
    return np.asarray(np.squeeze(x, None if axes is None else tuple(integers(axes))))


@folding("Reshape")
def _reshape(x: Array, shape: Array, *, allowzero: int = 0) -> Array:
    return np.asarray(np.reshape(x, target_shape(x.shape, shape, allowzero)))


@folding("Transpose")
def _transpose(x: Array, *, perm: Sequence[int] | None = None) -> Array:
    return np.transpose(x, perm)


@folding("Expand")
def _expand(x: Array, shape: Array) -> Array:
    return small(np.broadcast_to(x, np.broadcast_shapes(x.shape, integers(shape))))


@folding("ConstantOfShape")
def _constant_of_shape(shape: Array, *, value: Array | None = None) -> Array:
    filled = np.zeros(1, np.float32) if value is None else value
    return small(np.broadcast_to(filled[0], integers(shape)))


@folding("Range")
def _range(start: Array, limit: Array, delta: Array) -> Array:
    length = (limit - start) / delta
    if not length <= MOST:
        raise ValueError(f"a range of {length} elements")
    return np.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


@folding("Where")
def _where(condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition.astype(bool), a, b)


def slices(
    rank: int, starts: Array, ends: Array, axes: Array | None, steps: Array | None
) -> tuple[slice, ...]:
    """Return the index that the operator Slice stands for."""
    begins, stops = integers(starts), integers(ends)
    where = range(len(begins)) if axes is None else [axis % rank for axis in integers(axes)]
    strides = [1] * len(begins) if steps is None else integers(steps)
    index = [slice(None)] * rank
    for axis, *place in zip(where, begins, stops, strides, strict=True):
        index[axis] = slice(*place)
    return tuple(index)


def target_shape(shape: Sequence[int], target: Array, allowzero: int) -> list[int]:
    """Return the shape that the operator Reshape asks for, where 0 keeps an axis."""
    sizes = integers(target)
    if allowzero:
        return sizes
    return [shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(sizes)]
