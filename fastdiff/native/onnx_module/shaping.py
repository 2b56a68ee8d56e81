"""Operators that only say where elements lie."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastdiff.native.onnx_module.deferred import Deferred, Filled, GroupNormed, Regrouped, Whole
from fastdiff.native.onnx_module.folding import Array, Unreadable, integers, slices, target_shape
from fastdiff.native.onnx_module.values import (
    Operator,
    Value,
    begin_end,
    constant,
    operator,
    tensor,
)


def moving(function: Operator) -> Operator:
    """Let an operator that only moves elements do so with the floats of whole numbers."""

    @functools.wraps(function)
    def move(x: Value, *options: Value, **attributes: Any) -> Value | tuple[Value, ...]:
        if not isinstance(x, Whole):
            return function(x, *options, **attributes)
        moved = function(x.x, *options, **attributes)
        return Whole(tensor(moved)) if isinstance(moved, (Tensor, Deferred)) else moved

    return move


@operator("Shape")
def _shape(x: Value, *, start: int = 0, end: int | None = None) -> Value:
    return np.array(list(tensor(x).shape)[start:end], object)


@operator("Reshape")
@moving
def _reshape(x: Value, shape: Value, *, allowzero: int = 0) -> Value:
    if isinstance(x, GroupNormed) and x.apart:
        sizes = target_shape((x.x.shape[0], x.groups), constant(shape), allowzero)
        if len(sizes) == x.x.ndim and all(a == b for a, b in zip(sizes, x.x.shape, strict=True)):
            return GroupNormed(x.x, x.groups, x.epsilon)
    values = tensor(x)
    sizes = target_shape(values.shape, constant(shape), allowzero)
    if len(sizes) == 3 and values.ndim >= 3 and sizes[0] == values.shape[0]:
        channels, groups = values.shape[1], sizes[1]
        if (
            isinstance(channels, int)
            and isinstance(groups, int)
            and groups > 0 == channels % groups
        ):
            return Regrouped(values, groups)
    return values.reshape(sizes)


@operator("Flatten")
def _flatten(x: Value, *, axis: int = 1) -> Value:
    if axis != 1:
        raise Unreadable(f"axis {axis}")
    return tensor(x).flatten(1)


@operator("Transpose")
def _transpose(x: Value, *, perm: Sequence[int] | None = None) -> Value:
    values = tensor(x)
    return values.permute(list(perm or reversed(range(values.ndim))))


@operator("Unsqueeze")
@moving
def _unsqueeze(x: Value, axes: Value) -> Value:
    values, places = tensor(x), integers(constant(axes))
    rank = values.ndim + len(places)
    for axis in sorted(axis % rank for axis in places):
        values = values.unsqueeze(axis)
    return values


@operator("Squeeze")
@moving
def _squeeze(x: Value, axes: Value) -> Value:
    return tensor(x).squeeze(tuple(integers(constant(axes))))


@operator("Expand")
@moving
def _expand(x: Value, shape: Value) -> Value:
    values, sizes = tensor(x), integers(constant(shape))
    kept = [-1 if isinstance(n, int) and n == 1 else n for n in sizes]
    behind = len(kept) - values.ndim
    return values.expand([1 if n == -1 and i < behind else n for i, n in enumerate(kept)])


@operator("ConstantOfShape")
def _constant_of_shape(shape: Value, *, value: Array | None = None) -> Value:
    number = 0.0 if value is None else value.item()
    dtype = torch.float32 if isinstance(number, float) else torch.int64
    return Filled(tuple(integers(constant(shape))), number, dtype)


@operator("Concat")
def _concat(*parts: Value, axis: int) -> Value:
    if all(isinstance(part, np.ndarray) for part in parts):
        return np.concatenate([constant(part) for part in parts], axis)
    return torch.cat([tensor(part) for part in parts], axis)


@operator("Split")
def _split(
    x: Value, sizes: Value = None, *, axis: int = 0, num_outputs: int = 0
) -> tuple[Value, ...]:
    values = tensor(x)
    if sizes is not None:
        return torch.split(values, integers(constant(sizes)), axis)
    if not num_outputs:
        raise Unreadable("it does not say into how many parts")
    return torch.split(values, -(-int(values.shape[axis]) // num_outputs), axis)


@operator("Slice")
def _slice(x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None) -> Value:
    values = tensor(x)
    places = (None if place is None else constant(place) for place in (starts, ends, axes, steps))
    return values[slices(values.ndim, *places)]  # type: ignore[arg-type]


@operator("Gather")
def _gather(x: Value, indices: Value, *, axis: int = 0) -> Value:
    values = tensor(x)
    if isinstance(indices, np.ndarray):
        if indices.ndim == 0:
            return values.select(axis, int(indices))
        return values.index_select(axis, tensor(indices))
    if axis != 0 or values.ndim != 2:
        raise Unreadable(f"it gathers along axis {axis} of {values.ndim}")
    return functional.embedding(tensor(indices), values)


@operator("Pad")
def _pad(
    x: Value, pads: Value, value: Value = None, axes: Value = None, *, mode: bytes = b"constant"
) -> Value:
    values, given = tensor(x), begin_end(integers(constant(pads)))
    others = {b"reflect": "reflect", b"edge": "replicate", b"wrap": "circular"}
    if mode != b"constant" and mode not in others:
        raise Unreadable(f"{mode.decode()} padding")
    chosen = range(values.ndim) if axes is None else integers(constant(axes))
    where = [axis % values.ndim for axis in chosen]
    around = dict(zip(where, given, strict=True))
    sides = [n for axis in reversed(range(values.ndim)) for n in around.get(axis, (0, 0))]
    while len(sides) > 4 and sides[-2:] == [0, 0]:
        sides = sides[:-2]
    if mode != b"constant":
        while sides[-2:] == [0, 0]:
            sides = sides[:-2]
        return functional.pad(values, sides, others[mode])
    return functional.pad(values, sides, value=0.0 if value is None else constant(value).item())


@operator("DepthToSpace")
def _depth_to_space(x: Value, *, blocksize: int, mode: bytes = b"DCR") -> Value:
    values = tensor(x)
    if mode == b"DCR":  # torch has the channels of a pixel the other way round
        values = _exchanged(values, blocksize**2)
    return functional.pixel_shuffle(values, blocksize)


@operator("SpaceToDepth")
def _space_to_depth(x: Value, *, blocksize: int) -> Value:
    values = functional.pixel_unshuffle(tensor(x), blocksize)
    return _exchanged(values, values.shape[1] // blocksize**2)


def _exchanged(x: Tensor, outer: int) -> Tensor:
    """Return channels ``(outer, inner)`` in the order ``(inner, outer)``."""
    batch, channels, *size = x.shape
    parts = x.reshape(batch, outer, channels // outer, *size)
    return parts.transpose(1, 2).reshape(batch, channels, *size)


@operator("Einsum")
def _einsum(*operands: Value, equation: bytes) -> Value:
    return torch.einsum(equation.decode(), *[tensor(operand) for operand in operands])
