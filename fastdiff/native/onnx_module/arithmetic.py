"""Operators that work element by element, and the chains that they are links of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional

from fastdiff.native.onnx_module.deferred import (
    Centred,
    CentredSquare,
    Deferred,
    Filled,
    Gate,
    GroupNormed,
    Halved,
    LayerNormed,
    MatrixProduct,
    NormalShare,
    Probabilities,
    Rounded,
    RowDeviation,
    RowMean,
    RowVariance,
    Scores,
    TwiceGelu,
    Whole,
)
from fastdiff.native.onnx_module.folding import Unreadable, integers
from fastdiff.native.onnx_module.values import (
    Operator,
    Value,
    constant,
    is_weight,
    number,
    operand,
    operator,
    tensor,
)

_INTEGERS = (TensorProto.INT64, TensorProto.INT32)
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)


def _same(value: Value, known: Tensor) -> bool:
    return (value.value if isinstance(value, Deferred) else value) is known


def _as_floats(a: Value, b: Value) -> tuple[Tensor, Tensor] | None:
    """Return two whole numbers as floats, if one of them is kept so."""
    if not isinstance(a, Whole) and not isinstance(b, Whole):
        return None
    first, second = (v.x if isinstance(v, Whole) else tensor(v).to(torch.float32) for v in (a, b))
    return first, second


@operator("Add")
def _add(a: Value, b: Value) -> Value:
    if floats := _as_floats(a, b):
        return Whole(floats[0] + floats[1])
    for one, other in ((a, b), (b, a)):
        summand = number(other)
        if isinstance(one, (GroupNormed, LayerNormed, MatrixProduct)) and is_weight(other):
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
    return operand(a) + operand(b)  # type: ignore[return-value]


@operator("Mul")
def _mul(a: Value, b: Value) -> Value:
    if floats := _as_floats(a, b):
        return Whole(floats[0] * floats[1])
    for one, other in ((a, b), (b, a)):
        factor = number(other)
        if isinstance(one, (GroupNormed, LayerNormed)) and is_weight(other):
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
    return operand(a) * operand(b)  # type: ignore[return-value]


@operator("Div")
def _div(a: Value, b: Value) -> Value:
    divisor = number(b)
    if isinstance(a, Scores) and divisor:
        return Scores(a.q, a.k, a.scale / divisor)
    if isinstance(a, Tensor) and divisor is not None and abs(divisor - math.sqrt(2)) < 1e-6:
        return Halved(a)
    if isinstance(a, Centred) and isinstance(b, RowDeviation) and b.x is a.x:
        return LayerNormed(a.x, b.epsilon)
    dividend, by = operand(a), operand(b)
    if isinstance(dividend, Tensor) and not dividend.is_floating_point():
        return torch.div(dividend, by, rounding_mode="trunc")
    return dividend / by  # type: ignore[return-value]


@operator("Sub")
def _sub(a: Value, b: Value) -> Value:
    if isinstance(b, RowMean) and _same(a, b.x):
        return Centred(b.x)
    return operand(a) - operand(b)  # type: ignore[return-value]


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
    return tensor(x) ** operand(exponent)


@operator("ReduceMean")
def _reduce_mean(
    x: Value, chosen: Value = None, *, axes: Sequence[int] = (), keepdims: int = 1,
) -> Value:  # fmt: skip
    given = integers(constant(chosen)) if chosen is not None else list(axes)
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
    return x if bounds == [None, None] else tensor(x).clamp(*bounds)


def _elementwise(function: Callable[..., Tensor]) -> Operator:
    def compute(*operands: Value) -> Value:
        return function(*(tensor(value) for value in operands))

    return compute


@operator("LeakyRelu")
def _leaky_relu(x: Value, *, alpha: float = 0.01) -> Value:
    return functional.leaky_relu(tensor(x), alpha)


@operator("PRelu")
def _prelu(x: Value, slope: Value) -> Value:
    values = tensor(x)
    return values.clamp(min=0.0) + values.clamp(max=0.0) * tensor(slope)


@operator("HardSigmoid")
def _hard_sigmoid(x: Value, *, alpha: float = 0.2, beta: float = 0.5) -> Value:
    return (tensor(x) * alpha + beta).clamp(0.0, 1.0)


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Relu": torch.relu, "Tanh": torch.tanh, "Exp": torch.exp, "Log": torch.log, "Sin": torch.sin,
    "Cos": torch.cos, "Neg": torch.neg, "Reciprocal": torch.reciprocal, "Abs": torch.abs,
    "Swish": functional.silu, "Mish": functional.mish, "HardSwish": functional.hardswish,
    "Max": torch.maximum, "Min": torch.minimum,
}  # fmt: skip
for _name, _function in _FUNCTIONS.items():
    operator(_name)(_elementwise(_function))


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
    if isinstance(x, Whole) and to in (*_FLOATS, *_INTEGERS):
        return x.x if to in _FLOATS else x
    if isinstance(x, (Scores, Probabilities)) and to in _FLOATS:
        return x  # a half precision is computed in float32 too
    value = tensor(x)
    if value.is_floating_point() and to in _FLOATS:
        return x
    if value.dtype in {torch.int32, torch.int64} and to in _INTEGERS:
        return x
    if to not in (*_FLOATS, *_INTEGERS):
        raise Unreadable(f"it casts to {TensorProto.DataType.Name(to)}")
    return value.to(torch.float32 if to in _FLOATS else torch.int64)
