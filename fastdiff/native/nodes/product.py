"""Products of two matrices that both depend on the inputs. `Conv` has those with weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastdiff.native.algorithms import Algorithm
from fastdiff.native.nodes.node import Node, sizes
from fastdiff.native.reading.results import Result, operator
from fastdiff.native.views import Shape, View

if TYPE_CHECKING:
    from fastdiff.native.nodes.maps import Step
    from fastdiff.native.reading.reader import Reader
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses


@dataclass(frozen=True)
class Product(Node):
    """``y = scale a b``; a is (heads, M, K), b (heads, K, N) and y (heads, M, N)."""

    name: str
    a: View
    b: View
    y: View
    scale: float = 1.0

    method: ClassVar[str] = "product"

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        (heads, rows, depth), columns = self.a.shape, self.b.shape[2]
        alike = self.b.shape == (heads, depth, columns)
        return alike and self.y.together and self.y.shape == (heads, rows, columns)

    def compute(self, memory: Memory) -> NDArray[Any]:
        return np.asarray(memory.view(self.a) @ memory.view(self.b) * self.scale)

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        heads, rows, depth = self.a.shape
        return {
            "a": memory.heads(self.a),
            "a_step": self.a.strides[2],
            "b": memory.heads(self.b),
            "b_step": self.b.strides[2],
            "y": memory.heads(self.y),
            "images": memory.batch,
            "heads": heads,
            "rows": rows,
            "depth": depth,
            "columns": self.b.shape[2],
            "scale": self.scale,
        }

    @property
    def flops(self) -> int:
        """Those of the sums, for one image."""
        return 2 * self.y.numel * self.a.shape[2]

    @property
    def shape_text(self) -> str:
        """Of both matrices."""
        return f"{sizes(self.a)} by {sizes(self.b)}"

    def parts(self) -> list[str]:
        return [] if self.scale == 1 else ["scale"]


def contract(
    r: Reader, a: View, left: str, b: View, right: str, target: str, scale: float = 1.0
) -> View:
    """Append the product of two views whose axes have letters, and return it.

    Letters of both and of `target` count heads, those of both alone are summed over.

    Parameters
    ----------
    r : Reader
    a, b : View
        An axis of one element is repeated where the other operand has more.
    left, right, target : str
        A letter for each axis of a, of b and of the result, which repeats in none of them.
    scale : float
        Factor of the result.

    Raises
    ------
    Unavailable
        An operand has other axes, or a letter is in one of the three alone.
    """
    _check_letters(r, a, left, b, right, target)
    size: dict[str, int] = {}
    for letter, n in zip(left + right, a.shape + b.shape, strict=True):
        size[letter] = max(n, size.get(letter, 1))
    heads = [letter for letter in target if letter in left and letter in right]
    rows = [letter for letter in target if letter not in right]
    columns = [letter for letter in target if letter not in left]
    terms = [letter for letter in left if letter not in target]

    def matrices(view: View, letters: str, *groups: Sequence[str]) -> View:
        order = [letter for group in groups for letter in group]
        view = view.permute([letters.index(letter) for letter in order])
        view = view.expand([size[letter] for letter in order])
        return r.reshape(view, tuple(math.prod(size[x] for x in group) for group in groups))

    first = matrices(a, left, heads, rows, terms)
    second = matrices(b, right, heads, terms, columns)
    last = target[-1:]
    if _leads(first.strides[1], rows, last) > _leads(second.strides[2], columns, last):
        first, second = second.permute((0, 2, 1)), first.permute((0, 2, 1))
        rows, columns = columns, rows
    y = product(r, first, second, scale)
    made = [*heads, *rows, *columns]
    shaped = r.reshape(y, tuple(size[letter] for letter in made))
    return shaped.permute([made.index(letter) for letter in target])


def product(r: Reader, a: View, b: View, scale: float = 1.0) -> View:
    """Append a product of (heads, M, K) and (heads, K, N), and return (heads, M, N).

    Rows of all heads lie side by side, so that the heads of a token join for nothing.
    """
    heads, rows, columns = a.shape[0], a.shape[1], b.shape[2]
    y = View.of("", (rows, heads, columns)).permute((1, 0, 2))
    return r.emit(Product(r.label("product"), a, b, y, scale))


def _leads(stride: int, letters: Sequence[str], last: str) -> tuple[bool, bool]:
    """Say how much there is for these letters to be the ones whose elements lie together in y.

    What lies together stays so: channels do. Else the last axis is the one that torch lays out so.
    """
    return stride == 1, last in letters


def _check_letters(r: Reader, a: View, left: str, b: View, right: str, target: str) -> None:
    equation = f"{left},{right}->{target}"
    for view, letters in ((a, left), (b, right)):
        if len(view.shape) != len(letters):
            raise r.refuse(f"{equation} of each image, and an operand is {view.shape}")
    for letter in sorted({*left, *right, *target}):
        if sum(letter in letters for letters in (left, right, target)) < 2:
            raise r.refuse(f"{equation} of each image: {letter} is summed in one operand alone")


def multiply(r: Reader, a: View, b: View) -> View:
    """Read ``torch.matmul`` of two tensors of images: products of their last two axes."""
    sides = [*r.node.all_input_nodes, r.node.all_input_nodes[0]][:2]  # both may be one tensor
    ranks = [len(node.meta["val"].shape) for node in sides]
    _, lead = r.image_shape()
    if ranks[0] != ranks[1] or ranks[0] < 3 or len(a.shape) != len(b.shape):
        raise r.refuse("it multiplies along the batch")
    outer = "ABCDEFGH"[lead : ranks[0] - 2]
    return contract(r, a, f"{outer}mk", b, f"{outer}kn", f"{outer}mn")


@operator("bmm.default")
def _bmm(r: Reader, a: View, b: View) -> View:
    return multiply(r, a, b)


@operator("baddbmm.default")
def _baddbmm(
    r: Reader, summand: Result, a: View, b: View, *, beta: float = 1, alpha: float = 1
) -> View:
    _, lead = r.image_shape()
    outer = "" if lead else "A"
    y = contract(r, a, f"{outer}mk", b, f"{outer}kn", f"{outer}mn", float(alpha))
    if beta == 0:  # as torch does, whatever the summand is
        return y
    program: list[Step] = [("constant", 0, 0, float(beta))]
    other = r.operand(summand)
    if isinstance(other, View):
        program = [program[0], ("multiply", 1, 2, 0.0), ("add", 0, 3, 0.0)]
        return r.elementwise("baddbmm", [y, other], program)
    program = [("constant", 0, 0, float(beta) * other), ("add", 0, 1, 0.0)]
    return r.elementwise("baddbmm", [y], program)
