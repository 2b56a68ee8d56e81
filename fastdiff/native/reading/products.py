"""Products, however they are written: those with weights and constants are linear layers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fastdiff.native.nodes import Conv
from fastdiff.native.nodes.product import contract, multiply
from fastdiff.native.reading.reader import Reader
from fastdiff.native.reading.results import Result, operator
from fastdiff.native.views import View


@operator("linear.default")
def _linear(r: Reader, x: View, weight: Tensor, bias: Tensor | None = None) -> View:
    rows = r.rows(x)
    x_pixels = r.reshape(rows, (1, *rows.shape))
    y = View.of("", (1, rows.shape[0], weight.shape[0]))
    name = r.weight(weight, shape=(*weight.shape, 1, 1))
    out = r.emit(Conv(r.scope(), x_pixels, y, name, r.vector(bias, int(weight.shape[0]))))
    return r.reshape(out, (*x.shape[:-1], int(weight.shape[0])))


@operator("matmul.default", "mm.default")
def matmul(r: Reader, a: Result, b: Result) -> View:
    """Read a product; one with a constant is a linear layer."""
    if isinstance(a, View) and isinstance(b, View):
        return multiply(r, a, b)
    if isinstance(a, View) and isinstance(b, Tensor) and b.ndim <= 2:
        columns = b if b.ndim == 2 else b[:, None]
        y = _product(r, a, columns)
        return y if b.ndim == 2 else y.drop(len(y.shape) - 1)
    if isinstance(a, Tensor) and isinstance(b, View) and a.ndim == 2 and len(b.shape) > 1:
        axes = [*range(len(b.shape) - 2), len(b.shape) - 1, len(b.shape) - 2]
        return _product(r, b.permute(axes), a.T).permute(axes)
    raise r.refuse("neither side is a matrix of weights")


@operator("addmm.default")
def _addmm(
    r: Reader, bias: Tensor, x: View, matrix: Tensor, *, beta: float = 1, alpha: float = 1
) -> View:
    if bias.numel() != matrix.shape[1]:
        raise r.refuse(f"expected a vector of {matrix.shape[1]}, got {tuple(bias.shape)}")
    return _linear(r, x, _scaled(r, matrix.T, alpha), _scaled(r, bias.flatten(), beta))


def _scaled(r: Reader, tensor: Tensor, factor: float) -> Tensor:
    return tensor if factor == 1 else tensor * factor


@operator("outer.default", "ger.default")
def _outer(r: Reader, column: Result, row: Result) -> View:
    """Read a number of each image times a vector."""
    if not isinstance(column, View) or not isinstance(row, Tensor):
        raise r.refuse("it multiplies along the batch")
    view = r.constant(row, tuple(row.shape))
    return r.elementwise("outer", [r.reshape(column, (1,)), view], [("multiply", 0, 1, 0.0)])


@operator("einsum.default")
def einsum(r: Reader, equation: str, operands: Sequence[Result], path: object = None) -> View:
    """Read a permutation, or a product of two."""
    source, _, target = equation.replace(" ", "").partition("->")
    terms = source.split(",")
    if any(len(set(term)) != len(term) for term in (*terms, target)) or "." in equation:
        raise r.refuse(f"{equation!r} takes a diagonal, or leaves axes open")
    views = [i for i, operand in enumerate(operands) if isinstance(operand, View)]
    if len(operands) == 1 and sorted(source) == sorted(target) and source[0] == target[0]:
        (view,) = operands
        if isinstance(view, View) and len(view.shape) == len(source) - 1:
            return view.permute([source.index(letter) - 1 for letter in target[1:]])
    if len(operands) != 2:
        raise r.refuse(f"{equation!r} is no product of two")
    first, second = operands
    if isinstance(first, View) and isinstance(second, View):
        return _of_images(r, equation, first, second)
    view, constant = operands[views[0]], operands[1 - views[0]]
    if not isinstance(view, View) or not isinstance(constant, Tensor):
        raise r.refuse(f"{equation!r} reads something else than tensors")
    return _with_constant(r, equation, view, terms[views[0]], constant, terms[1 - views[0]], target)


def _of_images(r: Reader, equation: str, a: View, b: View) -> View:
    """Read an equation of two tensors of images, whose first letter is the batch."""
    source, _, target = equation.replace(" ", "").partition("->")
    left, right = source.split(",")
    if not left[:1] == right[:1] == target[:1] != "":
        raise r.refuse(f"{equation!r} moves the batch or sums over it")
    _, lead = r.image_shape()  # else the heads are a factor of the batch: an axis of each image
    return contract(r, a, left[lead:], b, right[lead:], target[lead:])


def _with_constant(
    r: Reader, equation: str, x: View, inner: str, constant: Tensor, other: str, target: str
) -> View:
    """Read ``inner, other -> target``, in which the first letter of `inner` is the batch."""
    batch, letters = inner[0], inner[1:]
    summed = [letter for letter in letters if letter not in target]
    kept = [letter for letter in letters if letter in target]
    alone = [letter for letter in other if letter not in inner and letter not in target]
    if (
        target[0] != batch
        or batch in other
        or len(x.shape) != len(letters)
        or not set(summed) <= set(other)
        or set(kept) & set(other)
    ):
        raise r.refuse(f"{equation!r} is no product with a matrix of weights")
    rest = [letter for letter in other if letter not in alone]
    if alone:
        constant = constant.sum([other.index(letter) for letter in alone])
    new = [letter for letter in rest if letter not in summed]
    matrix = constant.permute([rest.index(letter) for letter in (*summed, *new)])
    sizes = [constant.shape[rest.index(letter)] for letter in new]
    rows = x.permute([letters.index(letter) for letter in (*kept, *summed)])
    depth = math.prod(matrix.shape[: len(summed)])
    y = _product(r, r.reshape(rows, (*rows.shape[: len(kept)], depth)), matrix.reshape(depth, -1))
    y = r.reshape(y, (*rows.shape[: len(kept)], *map(int, sizes)))
    return y.permute([[*kept, *new].index(letter) for letter in target[1:]])


def _product(r: Reader, x: View, matrix: Tensor) -> View:
    """Return (..., K) times (K, N)."""
    return _linear(r, x, matrix.T)
