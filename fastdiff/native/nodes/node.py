"""What a kind of node is: all that Python knows of one stands in one file of this folder."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from numpy.typing import NDArray

from fastdiff.native.algorithms import DIRECT, Algorithm
from fastdiff.native.views import Shape, View

if TYPE_CHECKING:
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses

_NodeT = TypeVar("_NodeT", bound="Node")

KINDS: dict[str, type[Node]] = {}
"""Every kind by the name of its class, which is what files call it."""


class Node(ABC):
    """A call of one kernel: a frozen dataclass of views, names of weights, and numbers.

    A subclass has a field for each operand, `y` among them, and says what its kernel assumes, what
    it computes, and what it is told. Defining it registers it. The kernel is a C++ header with the
    same description (``csrc/network/kind.h``), and reading the operators of torch that become such
    nodes stands beside the class (`fastdiff.native.reading.results.operator`).

    Attributes
    ----------
    name : str
        Unique in its plan; of the module that it comes from.
    y : View
        What it writes.
    method : str
        ``NetworkPlan.<method>(name, **arguments)`` appends it.
    weight_fields : tuple of str
        Fields that hold names of weights, or None.
    algorithms : tuple of str
        How it may run.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]  # of the subclass
    name: str
    y: View
    method: ClassVar[str]
    weight_fields: ClassVar[tuple[str, ...]] = ()
    algorithms: ClassVar[tuple[str, ...]] = (DIRECT,)

    def __init_subclass__(cls, *, abstract: bool = False) -> None:
        if not abstract:
            KINDS[cls.__name__] = cls

    @abstractmethod
    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether the operands have the shapes and strides that the kernel assumes.

        Parameters
        ----------
        shapes : mapping of str to tuple of int
            Of the weights.
        """

    @abstractmethod
    def compute(self, memory: Memory) -> NDArray[Any]:
        """Return y by definition, (B, ...) float64: what the kernel is compared with."""

    @abstractmethod
    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        """Return what the kernel is told, by the names that its C++ header describes."""

    @property
    def flops(self) -> int:
        """Multiplications and additions of sums of products, for one image."""
        return 0

    @property
    def shape_text(self) -> str:
        """The sizes of what it computes, for people."""
        return sizes(self.y)

    def parts(self) -> list[str]:
        """Return what it does besides what its kind says, for people."""
        return []

    @property
    def labels(self) -> tuple[View, ...]:
        """What it reads that is int64."""
        return ()

    @property
    def roundable(self) -> View | None:
        """Y as (rows, channels), if the kernel can round whole rows of it as it stores them."""
        return None

    @property
    def overwritable(self) -> tuple[View, ...]:
        """Operands over which y may be written: each element is read before it is written."""
        return ()

    def reads(self) -> Iterator[View]:
        """Yield what it reads, weights excepted."""
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, tuple):
                yield from (view for view in value if isinstance(view, View))
            elif isinstance(value, View) and field.name != "y":
                yield value

    def weights_read(self) -> Iterator[str]:
        """Yield the names of the weights that it reads by themselves, not through views."""
        for field in self.weight_fields:
            name = getattr(self, field)
            if name is not None:
                yield name

    def with_views(self: _NodeT, change: Callable[[View], View]) -> _NodeT:
        """Return the node with every view changed."""
        changed: dict[str, object] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, View):
                changed[field.name] = change(value)
            elif isinstance(value, tuple) and any(isinstance(part, View) for part in value):
                changed[field.name] = tuple(change(view) for view in value)
        return replace(self, **changed)


def sizes(view: View) -> str:
    """Return the shape of a view for people: ``"8x8x64"``."""
    return "x".join(str(size) for size in view.shape)


def is_vector(view: View | None, channels: int) -> bool:
    """Whether a view, if there is one, is a vector whose elements lie together or are one."""
    return view is None or (view.shape == (channels,) and view.together)


def is_even(view: View | None) -> bool:
    """Whether the channels of a view, if there is one, lie together, its pixels at one distance."""
    rows = None if view is None else as_rows(view)
    return view is None or (rows is not None and rows.together)


def as_rows(view: View) -> View | None:
    """Return a view as (rows, channels); None if no strides say that."""
    channels = view.shape[-1]
    return view.reshape((view.numel // channels, channels))
