"""ONNX graphs written as expressions.

``a * b + c`` on `OnnxValue` appends a ``Mul`` and an ``Add`` node: two operators, two roundings, in
the order of the text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
DOUBLE = TensorProto.DOUBLE
INT64 = TensorProto.INT64
BOOL = TensorProto.BOOL

Operand: TypeAlias = "OnnxValue | int | float | npt.NDArray[Any] | np.generic"


class Builder:
    """Collects the nodes and constants of a graph and of the graphs inside it.

    Constants go to the outermost graph, once each; inner graphs capture them by name.

    Attributes
    ----------
    initializers : list of TensorProto
        The constants.
    """

    def __init__(self) -> None:
        self.initializers: list[TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], OnnxValue] = {}
        self._scopes: list[list[onnx.NodeProto]] = [[]]
        self._names = 0

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        """The nodes of the graph that is being written."""
        return self._scopes[-1]

    @contextlib.contextmanager
    def scope(self) -> Iterator[list[onnx.NodeProto]]:
        """Write the nodes of an inner graph; it may use every value of the outer ones."""
        self._scopes.append([])
        try:
            yield self._scopes[-1]
        finally:
            self._scopes.pop()

    def value(self, name: str) -> OnnxValue:
        """Return the value of that name: an input, or the output of a node added by hand."""
        return OnnxValue(self, name)

    def constant(self, value: Operand) -> OnnxValue:
        """Return `value` as a value: int as int64, float as float32, arrays in their own dtype."""
        if isinstance(value, OnnxValue):
            return value
        if type(value) is float:  # not float64, which is a float to isinstance
            value = np.float32(value)
        array = np.asarray(value, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._name("constant")
            self.initializers.append(numpy_helper.from_array(array, name))
            self._constants[key] = OnnxValue(self, name)
        return self._constants[key]

    def op(self, kind: str, *inputs: Operand, **attributes: Any) -> OnnxValue:
        """Append a node with one output and return that."""
        return self.ops(kind, 1, *inputs, **attributes)[0]

    def ops(self, kind: str, count: int, *inputs: Operand, **attributes: Any) -> list[OnnxValue]:
        """Append a node with `count` outputs and return them."""
        names = [self.constant(value).name for value in inputs]
        outputs = [self._name(kind) for _ in range(count)]
        self.nodes.append(helper.make_node(kind, names, outputs, name=outputs[0], **attributes))
        return [OnnxValue(self, name) for name in outputs]

    def rename(self, value: Operand, name: str) -> OnnxValue:
        """Give `value` a name that others know, as an input or an output of a graph."""
        source = self.constant(value).name
        self.nodes.append(helper.make_node("Identity", [source], [name], name=f"{name}/identity"))
        return OnnxValue(self, name)

    def _name(self, kind: str) -> str:
        self._names += 1
        return f"{kind}_{self._names}"


class OnnxValue:
    """A tensor of the graph under construction, with the arithmetic of its element type."""

    __array_ufunc__ = None  # NumPy operands on the left leave the operator to this class

    def __init__(self, builder: Builder, name: str) -> None:
        self.builder, self.name = builder, name

    def __add__(self, other: Operand) -> OnnxValue:
        return self.builder.op("Add", self, other)

    def __sub__(self, other: Operand) -> OnnxValue:
        return self.builder.op("Sub", self, other)

    def __mul__(self, other: Operand) -> OnnxValue:
        return self.builder.op("Mul", self, other)

    def __floordiv__(self, other: Operand) -> OnnxValue:
        """Integer division; ONNX rounds towards zero, so both sides must be positive or exact."""
        return self.builder.op("Div", self, other)

    def __and__(self, other: Operand) -> OnnxValue:
        return self.builder.op("BitwiseAnd", self, other)

    def __xor__(self, other: Operand) -> OnnxValue:
        return self.builder.op("BitwiseXor", self, other)

    def __neg__(self) -> OnnxValue:
        return self.builder.op("Neg", self)

    def __lt__(self, other: Operand) -> OnnxValue:
        return self.builder.op("Less", self, other)

    def __ge__(self, other: Operand) -> OnnxValue:
        return self.builder.op("GreaterOrEqual", self, other)

    def cast(self, dtype: int) -> OnnxValue:
        """Convert to an ONNX element type."""
        return self.builder.op("Cast", self, to=dtype)

    def where(self, yes: Operand, no: Operand) -> OnnxValue:
        """Select by this bool value."""
        return self.builder.op("Where", self, yes, no)

    def gather(self, indices: Operand, axis: int = 0) -> OnnxValue:
        """Index along one axis."""
        return self.builder.op("Gather", self, indices, axis=axis)

    def reshape(self, *shape: int) -> OnnxValue:
        """Reshape as in NumPy; one size may be -1."""
        return self.builder.op("Reshape", self, np.array(shape, np.int64))

    def slice(self, axis: int, begin: int, end: int) -> OnnxValue:
        """Take elements `begin` to ``end - 1`` of one axis."""
        return self.builder.op("Slice", self, *(np.array([i]) for i in (begin, end, axis)))

    def rows(self) -> OnnxValue:
        """Return the size of the first axis, (1,) int64."""
        return self.builder.op("Shape", self, start=0, end=1)
