"""Element-wise operators: each becomes a program of one or a few steps."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from fastdiff.native.nodes import Step
from fastdiff.native.operations import OPERATIONS
from fastdiff.native.reading.reader import Reader
from fastdiff.native.reading.results import Result, operator
from fastdiff.native.views import View


def _binary(r: Reader, op: str, a: Result, b: Result) -> Result:
    """Append one operation; what leaves its operand as it is vanishes."""
    left, right = r.operand(a), r.operand(b)
    if isinstance(left, View) and _is_neutral(op, right):
        return left
    if isinstance(right, View) and OPERATIONS[op].commutes and _is_neutral(op, left):
        return right
    program: list[Step] = []
    views = [operand for operand in (left, right) if isinstance(operand, View)]
    indices: list[int] = []
    for operand in (left, right):
        if isinstance(operand, View):
            indices.append(len(indices) if len(views) == 2 else 0)
        else:
            indices.append(len(views))
            program.append(("constant", 0, 0, operand))
    return r.elementwise(op, views, [*program, (op, *indices, 0.0)])  # type: ignore[list-item]


def _is_neutral(op: str, operand: View | float) -> bool:
    return not isinstance(operand, View) and repr(operand) == repr(OPERATIONS[op].neutral)


def _registered(op: str, swapped: bool = False) -> Callable[..., Result]:
    def read(r: Reader, a: Result, b: Result, alpha: float = 1) -> Result:
        if alpha != 1:
            raise r.refuse(f"alpha is {alpha}, expected 1")
        return _binary(r, op, b, a) if swapped else _binary(r, op, a, b)

    return read


def _unary(op: str) -> Callable[..., Result]:
    def read(r: Reader, x: View) -> Result:
        return r.elementwise(op, [x], [(op, 0, 0, 0.0)])

    return read


for _op, _torch in {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div"}.items():
    operator(*(f"{_torch}{place}.{kind}" for place in ("", "_") for kind in ("Tensor", "Scalar")))(
        _registered(_op)
    )
operator("maximum.default")(_registered("maximum"))
operator("minimum.default")(_registered("minimum"))
operator("rsub.Scalar", "rsub.Tensor")(_registered("subtract", swapped=True))
for _op, _operation in OPERATIONS.items():
    if _operation.torch is not None:
        operator(f"{_operation.torch}.default", f"{_operation.torch}_.default")(_unary(_op))


@operator("gelu.default")
def _gelu(r: Reader, x: View, *, approximate: str = "none") -> Result:
    return _unary("gelu" if approximate == "none" else "gelu_tanh")(r, x)


@operator("relu.default", "relu_.default")
def _relu(r: Reader, x: View) -> Result:
    return _binary(r, "maximum", x, 0.0)


@operator("reciprocal.default")
def _reciprocal(r: Reader, x: View) -> Result:
    return _binary(r, "divide", 1.0, x)


@operator("pow.Tensor_Scalar")
def _pow(r: Reader, x: View, exponent: float) -> Result:
    if exponent in {2, 3}:
        square = _binary(r, "multiply", x, x)
        return square if exponent == 2 else _binary(r, "multiply", square, x)
    if exponent in {0.5, -0.5}:
        return _unary("sqrt" if exponent > 0 else "rsqrt")(r, x)
    if exponent == -1:
        return _reciprocal(r, x)
    raise r.refuse(f"the exponent is {exponent}, expected 2, 3, 0.5, -0.5 or -1")


@operator("clamp.default")
def _clamp(
    r: Reader, x: Result, minimum: float | None = None, maximum: float | None = None
) -> Result:
    for op, bound in (("maximum", minimum), ("minimum", maximum)):
        if bound is not None:
            x = _binary(r, op, x, bound)
    return x


@operator("relu6.default")
def _relu6(r: Reader, x: View) -> Result:
    return _clamp(r, x, 0.0, 6.0)


@operator("hardtanh.default")
def _hardtanh(r: Reader, x: View, minimum: float = -1, maximum: float = 1) -> Result:
    return _clamp(r, x, minimum, maximum)


@operator("leaky_relu.default", "leaky_relu_.default")
def _leaky_relu(r: Reader, x: View, slope: float = 0.01) -> Result:
    return _two_slopes(r, x, slope)


@operator("prelu.default", "_prelu_kernel.default")
def _prelu(r: Reader, x: View, weight: Tensor) -> Result:
    shape = (-1, *[1] * (len(x.shape) - 1)) if weight.numel() > 1 else ()
    return _two_slopes(r, x, weight.reshape(shape))


def _two_slopes(r: Reader, x: View, slope: Result) -> Result:
    below = _binary(r, "multiply", _binary(r, "minimum", x, 0.0), slope)
    return _binary(r, "add", _binary(r, "maximum", x, 0.0), below)


@operator("hardsigmoid.default")
def _hardsigmoid(r: Reader, x: View) -> Result:
    return _binary(r, "divide", _clamp(r, _binary(r, "add", x, 3.0), 0.0, 6.0), 6.0)


@operator("hardswish.default", "hardswish_.default")
def _hardswish(r: Reader, x: View) -> Result:
    return _binary(r, "multiply", x, _hardsigmoid(r, x))


@operator("abs.default")
def _abs(r: Reader, x: View) -> Result:
    return _binary(r, "maximum", x, _unary("negate")(r, x))


@operator("square.default")
def _square(r: Reader, x: View) -> Result:
    return _binary(r, "multiply", x, x)


@operator("addcmul.default")
def _addcmul(r: Reader, x: Result, a: Result, b: Result, *, value: float = 1) -> Result:
    product = _binary(r, "multiply", a, b)
    return _binary(r, "add", x, _binary(r, "multiply", product, float(value)))


@operator("clamp_min.default")
def _clamp_min(r: Reader, x: Result, minimum: float) -> Result:
    return _clamp(r, x, minimum)


@operator("clamp_max.default")
def _clamp_max(r: Reader, x: Result, maximum: float) -> Result:
    return _clamp(r, x, None, maximum)


@operator("batch_norm.default")
def _batch_norm(
    r: Reader,
    x: View,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,  # of the running statistics, which stay as they are
    eps: float,
    cudnn_enabled: bool,
) -> Result:
    """Read one that is not in training: a factor and a summand for each channel."""
    if training or mean is None or variance is None:
        raise r.refuse("it takes statistics of the batch")
    factor = (variance + eps).rsqrt() if weight is None else weight * (variance + eps).rsqrt()
    summand = -mean * factor if bias is None else bias - mean * factor
    shape = (-1, *[1] * (len(x.shape) - 1))
    scaled = _binary(r, "multiply", x, factor.reshape(shape))
    return _binary(r, "add", scaled, summand.reshape(shape))
