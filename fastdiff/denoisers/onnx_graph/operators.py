"""Operators of ONNX as calls of torch.

A value is a tensor, a `Deferred` one, or, if it is a constant or a shape, a NumPy array. What
depends on constants alone was computed before (`folding.py`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from fastdiff.denoisers.onnx_graph.deferred import (
    Centred,
    CentredSquare,
    Deferred,
    Filled,
    Gate,
    GroupNormed,
    Halved,
    LayerNormed,
    NormalShare,
    Probabilities,
    Product,
    Regrouped,
    Rounded,
    RowDeviation,
    RowMean,
    RowVariance,
    Scores,
    TwiceGelu,
    Whole,
)
from fastdiff.denoisers.onnx_graph.folding import Array, slices, target_shape, whole

Value: TypeAlias = "Tensor | Array | Deferred | None"
Operator: TypeAlias = Callable[..., "Value | tuple[Value, ...]"]

OPERATORS: dict[str, Operator] = {}

_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


class Unreadable(Exception):
    """An operator, or what it is asked for, that is not known here; the message says which."""


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
    """Return a constant of one element, which has no shape to broadcast; else None."""
    one = isinstance(value, np.ndarray) and value.size == 1 and value.ndim <= 1
    return float(value.item()) if one else None  # type: ignore[union-attr]


def _operand(value: Value) -> Tensor | float:
    alone = number(value)
    return tensor(value) if alone is None else alone


def _is_weight(value: Value) -> bool:
    return isinstance(value, torch.nn.Parameter)


def _same(value: Value, known: Tensor) -> bool:
    return (value.value if isinstance(value, Deferred) else value) is known


def moving(function: Operator) -> Operator:
    """Let an operator that only moves elements do so with the floats of whole numbers."""

    @functools.wraps(function)
    def move(x: Value, *options: Value, **attributes: Any) -> Value | tuple[Value, ...]:
        if not isinstance(x, Whole):
            return function(x, *options, **attributes)
        moved = function(x.x, *options, **attributes)
        return Whole(tensor(moved)) if isinstance(moved, (Tensor, Deferred)) else moved

    return move


def _whole(a: Value, b: Value) -> tuple[Tensor, Tensor] | None:
    """Return two whole numbers as floats, if one of them is kept so."""
    if not isinstance(a, Whole) and not isinstance(b, Whole):
        return None
    first, second = (v.x if isinstance(v, Whole) else tensor(v).to(torch.float32) for v in (a, b))
    return first, second


# Element by element.


@operator("Add")
def _add(a: Value, b: Value) -> Value:
    if whole_numbers := _whole(a, b):
        return Whole(whole_numbers[0] + whole_numbers[1])
    for one, other in ((a, b), (b, a)):
        summand = number(other)
        if isinstance(one, (GroupNormed, LayerNormed, Product)) and _is_weight(other):
            joined = one.shifted(tensor(other))
            if joined is not None:
                return joined
        elif isinstance(one, Scores) and isinstance(other, Filled) and other.number == 0:
            if one.shape == other.shape:  # torch.baddbmm, told to add nothing
                return one
        elif isinstance(one, NormalShare) and summand is not None:
            return NormalShare(one.x, one.offset + summand)
        elif isinstance(one, RowVariance) and summand is not None:
            return RowVariance(one.x, one.epsilon + summand)
    return _operand(a) + _operand(b)  # type: ignore[return-value]


@operator("Mul")
def _mul(a: Value, b: Value) -> Value:
    if whole_numbers := _whole(a, b):
        return Whole(whole_numbers[0] * whole_numbers[1])
    for one, other in ((a, b), (b, a)):
        factor = number(other)
        if isinstance(one, (GroupNormed, LayerNormed)) and _is_weight(other):
            joined = one.scaled(tensor(other))
            if joined is not None:
                return joined
        elif isinstance(one, Gate) and _same(other, one.x):
            return functional.silu(one.x)
        elif isinstance(one, NormalShare) and one.offset == 1 and _same(other, one.x):
            return TwiceGelu(one.x)
        elif isinstance(one, Scores) and factor is not None:
            return Scores(one.q, one.k, one.scale * factor)
        elif isinstance(one, Filled) and factor is not None:
            return replace(one, number=one.number * factor, within=None)
        elif isinstance(one, TwiceGelu) and factor == 0.5:
            return functional.gelu(one.x)
    return _operand(a) * _operand(b)  # type: ignore[return-value]


@operator("Div")
def _div(a: Value, b: Value) -> Value:
    divisor = number(b)
    if isinstance(a, Scores) and divisor is not None:
        return Scores(a.q, a.k, a.scale / divisor)
    if isinstance(a, Tensor) and divisor is not None and abs(divisor - math.sqrt(2)) < 1e-6:
        return Halved(a)
    if isinstance(a, Centred) and isinstance(b, RowDeviation) and b.x is a.x:
        return LayerNormed(a.x, b.epsilon)
    dividend, by = _operand(a), _operand(b)
    if isinstance(dividend, Tensor) and not dividend.is_floating_point():
        return torch.div(dividend, by, rounding_mode="trunc")
    return dividend / by  # type: ignore[return-value]


@operator("Sub")
def _sub(a: Value, b: Value) -> Value:
    if isinstance(b, RowMean) and _same(a, b.x):
        return Centred(b.x)
    return _operand(a) - _operand(b)  # type: ignore[return-value]


@operator("Sigmoid")
def _sigmoid(x: Value) -> Value:
    return Gate(tensor(x))


@operator("Erf")
def _erf(x: Value) -> Value:
    return NormalShare(x.x) if isinstance(x, Halved) else torch.erf(tensor(x))


@operator("Gelu")
def _gelu(x: Value, *, approximate: bytes = b"none") -> Value:
    return functional.gelu(tensor(x), approximate=approximate.decode())


@operator("Pow")
def _pow(x: Value, exponent: Value) -> Value:
    if isinstance(x, Centred) and number(exponent) == 2:
        return CentredSquare(x.x)
    return tensor(x) ** _operand(exponent)


@operator("ReduceMean")
def _reduce_mean(
    x: Value, chosen: Value = None, *, axes: Sequence[int] = (), keepdims: int = 1,
) -> Value:  # fmt: skip
    given = whole(constant(chosen)) if chosen is not None else list(axes)
    values = x.x if isinstance(x, CentredSquare) else tensor(x)
    if not keepdims or given not in ([-1], [values.ndim - 1]):
        raise Unreadable(f"it reduces the axes {given}, keepdims {keepdims}")
    return RowVariance(values) if isinstance(x, CentredSquare) else RowMean(values)


@operator("Sqrt")
def _sqrt(x: Value) -> Value:
    return RowDeviation(x.x, x.epsilon) if isinstance(x, RowVariance) else torch.sqrt(tensor(x))


@operator("Clip")
def _clip(x: Value, low: Value = None, high: Value = None) -> Value:
    bounds = [None if bound is None else constant(bound).item() for bound in (low, high)]
    return tensor(x).clamp(*bounds)


for _name, _function in {
    "Relu": torch.relu, "Tanh": torch.tanh, "Exp": torch.exp, "Log": torch.log,
    "Sin": torch.sin, "Cos": torch.cos, "Neg": torch.neg,
    "Reciprocal": torch.reciprocal, "Abs": torch.abs,
    "Swish": functional.silu,
}.items():  # fmt: skip
    operator(_name)(lambda x, _function=_function: _function(tensor(x)))
for _name, _two in {"Max": torch.maximum, "Min": torch.minimum}.items():
    operator(_name)(lambda a, b, _two=_two: _two(tensor(a), tensor(b)))


@operator("Identity")
def _identity(x: Value) -> Value:
    return x


@operator("Dropout")
def _dropout(x: Value, ratio: Value = None, training: Value = None, *, seed: int = 0) -> Value:
    if training is not None and constant(training).any():
        raise Unreadable("it drops elements, as in training")
    return x


@operator("Round")
def _round(x: Value) -> Value:
    return Rounded(tensor(x))


@operator("Cast")
def _cast(x: Value, *, to: int) -> Value:
    if isinstance(x, Rounded) and to in _INTEGERS:
        return Whole(x.value)
    if isinstance(x, Whole):
        return x.x if to in _FLOATS else x
    if isinstance(x, (Scores, Probabilities)) and to in _FLOATS:
        return x  # a half precision is computed in float32 too
    value = tensor(x)
    if value.is_floating_point() and to in _FLOATS:
        return x
    if not value.is_floating_point() and to in _INTEGERS:
        return x
    if to not in (*_FLOATS, *_INTEGERS):
        raise Unreadable(f"it casts to {TensorProto.DataType.Name(to)}")
    return value.to(torch.float32 if to in _FLOATS else torch.int64)


# Layers.


@operator("Conv")
def _conv(
    x: Value, weight: Value, bias: Value = None, *, kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0),
    dilations: Sequence[int] = (1, 1), group: int = 1,
) -> Value:  # fmt: skip
    if tensor(weight).ndim != 4:
        raise Unreadable(f"its kernel has {tensor(weight).ndim - 2} axes, expected 2")
    given, image = _begin_end(pads), tensor(x)
    if any(begin != end for begin, end in given):
        image = functional.pad(image, [n for pair in reversed(given) for n in pair])
        given = [(0, 0)] * len(given)
    padding = [begin for begin, _ in given]
    kernel, added = tensor(weight), None if bias is None else tensor(bias)
    return functional.conv2d(image, kernel, added, list(strides), padding, list(dilations), group)


def _begin_end(pads: Sequence[int]) -> list[tuple[int, int]]:
    """Return what is padded before and behind each axis."""
    half = len(pads) // 2
    return list(zip(pads[:half], pads[half:], strict=True))


@operator("ConvTranspose")
def _conv_transpose(
    x: Value, weight: Value, bias: Value = None, *, kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (1, 1), pads: Sequence[int] = (0, 0, 0, 0), group: int = 1,
    dilations: Sequence[int] = (1, 1), output_padding: Sequence[int] = (0, 0),
) -> Value:  # fmt: skip
    given = _begin_end(pads)
    if any(begin != end for begin, end in given):
        raise Unreadable(f"padding {list(pads)}")
    padding, added = [begin for begin, _ in given], None if bias is None else tensor(bias)
    return functional.conv_transpose2d(
        tensor(x), tensor(weight), added, list(strides), padding, list(output_padding), group,
        list(dilations),
    )  # fmt: skip


@operator("Gemm")
def _gemm(
    a: Value, b: Value, c: Value = None, *, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Value:  # fmt: skip
    if alpha != 1 or beta != 1 or transA:
        raise Unreadable(f"alpha {alpha}, beta {beta}, transA {transA}")
    matrix = tensor(b) if transB else tensor(b).t()
    return functional.linear(tensor(a), matrix, None if c is None else tensor(c))


@operator("MatMul")
def _matmul(a: Value, b: Value) -> Value:
    if isinstance(a, Probabilities):
        return a.attend(tensor(b))
    left, right = tensor(a), tensor(b)
    if _is_weight(b) and right.ndim == 2:
        return Product(left, right)
    if left.ndim >= 3 and left.ndim == right.ndim:
        return Scores(left, right)
    return left @ right


@operator("Softmax")
def _softmax(x: Value, *, axis: int = -1) -> Value:
    if isinstance(x, Scores) and axis in {-1, x.q.ndim - 1}:
        return Probabilities(x)
    return torch.softmax(tensor(x), axis)


@operator("Attention")
def _attention(
    q: Value, k: Value, v: Value, mask: Value = None, *more: Value, scale: float | None = None,
    q_num_heads: int = 0, kv_num_heads: int = 0, is_causal: int = 0,
) -> Value:  # fmt: skip
    if any(value is not None for value in more):
        raise Unreadable("it keeps keys of earlier calls")
    query, key, value = tensor(q), tensor(k), tensor(v)
    flat = query.ndim == 3
    if flat:
        query = _heads(query, q_num_heads)
        key, value = _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    y = functional.scaled_dot_product_attention(
        query, key, value, None if mask is None else tensor(mask), is_causal=bool(is_causal),
        scale=scale, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return y.transpose(1, 2).flatten(2) if flat else y


def _heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, tokens, heads * depth) as (B, heads, tokens, depth)."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


@operator("InstanceNormalization")
def _instance_norm(x: Value, weight: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    alike = all(
        isinstance(value, np.ndarray) and bool((value == plain).all())
        for value, plain in ((weight, 1), (bias, 0))
    )
    if isinstance(x, Regrouped) and alike:
        return GroupNormed(x.x, x.groups, epsilon, apart=True)
    image = tensor(x)
    return functional.group_norm(image, int(image.shape[1]), tensor(weight), tensor(bias), epsilon)


@operator("GroupNormalization")
def _group_norm(
    x: Value, weight: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5
) -> Value:
    image, factors, summands = tensor(x), tensor(weight), tensor(bias)
    if factors.shape[0] != image.shape[1]:  # before opset 21: one for each group
        each = int(image.shape[1]) // num_groups
        factors, summands = (v.repeat_interleave(each) for v in (factors, summands))
    return functional.group_norm(image, num_groups, factors, summands, epsilon)


@operator("LayerNormalization")
def _layer_norm(
    x: Value, weight: Value, bias: Value = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Value:
    values, added = tensor(x), None if bias is None else tensor(bias)
    shape = [int(n) for n in values.shape[axis:]]
    return functional.layer_norm(values, shape, tensor(weight), added, epsilon)


@operator("RMSNormalization")
def _rms_norm(x: Value, weight: Value, *, axis: int = -1, epsilon: float = 1e-5) -> Value:
    values = tensor(x)
    shape = [int(n) for n in values.shape[axis:]]
    return functional.rms_norm(values, shape, tensor(weight), epsilon)


@operator("AveragePool")
def _average_pool(
    x: Value, *, kernel_shape: Sequence[int], strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (), ceil_mode: int = 0, count_include_pad: int = 0,
) -> Value:  # fmt: skip
    if any(pads):
        raise Unreadable(f"padding {list(pads)}")
    return functional.avg_pool2d(
        tensor(x), list(kernel_shape), list(strides), ceil_mode=bool(ceil_mode)
    )


@operator("Resize")
def _resize(
    x: Value, roi: Value = None, scales: Value = None, sizes: Value = None, *,
    mode: bytes = b"nearest", coordinate_transformation_mode: bytes = b"half_pixel",
    nearest_mode: bytes = b"round_prefer_floor",
) -> Value:  # fmt: skip
    repeats = {  # a pixel twice, if both sides are doubled
        (b"asymmetric", b"floor"), (b"half_pixel", b"round_prefer_floor"),
        (b"half_pixel", b"round_prefer_ceil"),
    }  # fmt: skip
    if mode != b"nearest" or (coordinate_transformation_mode, nearest_mode) not in repeats:
        raise Unreadable(
            f"{mode.decode()} by {coordinate_transformation_mode.decode()}, {nearest_mode.decode()}"
        )
    image = tensor(x)
    before = [int(n) for n in image.shape[2:]]
    if scales is not None and constant(scales).size:
        after = [int(n * scale) for n, scale in zip(before, constant(scales)[2:], strict=True)]
    else:
        after = whole(constant(sizes))[2:]
    if after != [2 * n for n in before]:
        raise Unreadable(f"it makes {after} of {before}")
    return functional.interpolate(image, scale_factor=2.0, mode="nearest")


# Shapes and places.


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
    values, places = tensor(x), whole(constant(axes))
    rank = values.ndim + len(places)
    for axis in sorted(axis % rank for axis in places):
        values = values.unsqueeze(axis)
    return values


@operator("Squeeze")
@moving
def _squeeze(x: Value, axes: Value) -> Value:
    return tensor(x).squeeze(tuple(whole(constant(axes))))


@operator("Expand")
@moving
def _expand(x: Value, shape: Value) -> Value:
    values, sizes = tensor(x), whole(constant(shape))
    kept = [-1 if isinstance(n, int) and n == 1 else n for n in sizes]
    behind = len(kept) - values.ndim
    return values.expand([1 if n == -1 and i < behind else n for i, n in enumerate(kept)])


@operator("ConstantOfShape")
def _constant_of_shape(shape: Value, *, value: Array | None = None) -> Value:
    number = 0.0 if value is None else value.item()
    dtype = torch.float32 if isinstance(number, float) else torch.int64
    return Filled(tuple(whole(constant(shape))), number, dtype)


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
        return torch.split(values, whole(constant(sizes)), axis)
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
    values, given = tensor(x), _begin_end(whole(constant(pads)))
    if mode != b"constant":
        raise Unreadable(f"{mode.decode()} padding")
    where = range(values.ndim) if axes is None else [a % values.ndim for a in whole(constant(axes))]
    around = dict(zip(where, given, strict=True))
    sides = [n for axis in reversed(range(values.ndim)) for n in around.get(axis, (0, 0))]
    while len(sides) > 4 and sides[-2:] == [0, 0]:
        sides = sides[:-2]
    return functional.pad(values, sides, value=0.0 if value is None else constant(value).item())


@operator("Einsum")
def _einsum(*operands: Value, equation: bytes) -> Value:
    return torch.einsum(equation.decode(), *[tensor(operand) for operand in operands])
