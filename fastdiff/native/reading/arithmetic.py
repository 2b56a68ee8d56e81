"""Element-wise operators: each becomes a program of one or a few steps."""

from __future__ import annotations

from collections.abc import Callable

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
    if exponent != 2:
        raise r.refuse(f"the exponent is {exponent}, expected 2")
    return _binary(r, "multiply", x, x)


@operator("clamp.default")
def _clamp(
    r: Reader, x: Result, minimum: float | None = None, maximum: float | None = None
) -> Result:
    for op, bound in (("maximum", minimum), ("minimum", maximum)):
        if bound is not None:
            x = _binary(r, op, x, bound)
    return x
