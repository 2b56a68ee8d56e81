"""What the operators of a program build on: values, per-image shapes, constants, layouts."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fastdiff.errors import Unavailable
from fastdiff.native.nodes import Map, Node, Step
from fastdiff.native.planning.graph import Graph, Value
from fastdiff.native.reading.results import Result, Rows
from fastdiff.native.views import Shape, View, inverse, memory_order

_SMALL = 4096  # elements of constants that are compared by content


class Reader:
    """The graph that is being read, and the operators' common work on it.

    Attributes
    ----------
    graph : Graph
        Nodes are appended with ``emit``, which returns an equal earlier node's output instead.
    """

    def __init__(self) -> None:
        self.graph = Graph()
        self.node: fx.Node  # the operator that is being read
        self._names: Counter[str] = Counter()
        self._memo: dict[str, str] = {}
        self._called: dict[int, str] = {}  # what the program calls a tensor
        self._kept: dict[tuple[int, Shape], str] = {}  # weights by tensor and shape
        self._contents: dict[object, str] = {}
        self._tensors: list[Tensor] = []  # keeps the ids above alive
        self._joined: dict[tuple[tuple[View, ...], int], View] = {}
        self._parts: dict[str, list[tuple[View, View]]] = {}  # of a joined value: place, original

    def refuse(self, reason: str = "") -> Unavailable:
        """Return the error for the operator at hand, which says where it comes from."""
        where = self.scope() or "the network"
        what = f"{self.node.target} in {where}"
        return Unavailable(
            f"the native backend cannot read {what}{': ' if reason else ''}{reason}; "
            "another backend can run it"
        )

    def scope(self) -> str:
        """Return the path of the module that the operator at hand belongs to."""
        stack = list(self.node.meta.get("nn_module_stack", {}).values())
        return short_name(str(stack[-1][0])) if stack else ""

    def unique(self, name: str) -> str:
        """Return `name`, numbered if it is taken."""
        self._names[name] += 1
        return name if self._names[name] == 1 else f"{name}#{self._names[name]}"

    def label(self, what: str) -> str:
        """Name something that the operator at hand does: its module, and what it is."""
        return ".".join(filter(None, (self.scope(), what)))

    def image_shape(self, node: fx.Node | None = None) -> tuple[Shape, int]:
        """Return the shape of one image's part of a tensor, and how many axes the batch takes.

        One axis: the batch leads. None: it is a factor of the first axis.
        """
        return self.shape_of((node or self.node).meta["val"])

    def shape_of(self, value: Any) -> tuple[Shape, int]:
        """Return `image_shape` of what a tensor of the program looks like."""
        shape = value.shape
        if any(not isinstance(size, int) for size in shape[1:]):
            raise self.refuse(
                f"shape {tuple(shape)} has the batch in an axis that is not the first"
            )
        if not shape or isinstance(shape[0], int):
            raise self.refuse(f"shape {tuple(shape)} has no batch, and depends on the inputs")
        expression = shape[0].node.expr
        factor = expression.as_coeff_Mul()[0]
        if not (expression / factor).is_Symbol or not factor.is_Integer:
            raise self.refuse(f"shape {tuple(shape)}: {expression} is no multiple of the batch")
        rest = tuple(int(size) for size in shape[1:])
        return (rest, 1) if factor == 1 else ((int(factor), *rest), 0)

    def axis(self, axis: int, node: fx.Node | None = None) -> int:
        """Return which axis of one image the axis of a tensor is; refuse the batch."""
        node = node or self.node
        _, lead = self.image_shape(node)
        axis %= len(node.meta["val"].shape)
        if axis == 0:
            raise self.refuse("it works along the batch")
        return axis - lead

    def value(self, name: str, rows: int, channels: int) -> str:
        """Add a value and return its name."""
        name = self.unique(name)
        self.graph.values[name] = Value(rows, channels)
        return name

    def emit(self, node: Node) -> View:
        """Append `node`, whose y is a whole new value named like it, and return y.

        If an earlier node computes the same, nothing is appended and its y is returned.
        """
        channels = node.y.shape[-1] if node.y.shape else 1
        # As text, 0.0 and -0.0 are two numbers.
        key = repr(replace(node, name="", y=replace(node.y, buffer="")))
        if key not in self._memo:
            rows = node.y.numel // channels
            name = self._memo[key] = self.value(node.name, rows, channels)
            self.append(replace(node, name=name, y=replace(node.y, buffer=name)))
        return replace(node.y, buffer=self._memo[key])

    def append(self, node: Node) -> None:
        """Append `node` to the graph; labels are for embeddings alone."""
        for view in node.reads():
            if self.graph.values[view.buffer].kind == "labels" and view not in node.labels:
                raise self.refuse(f"it computes with the labels {view.buffer}")
        self.graph.nodes.append(node)

    def weight(self, tensor: Tensor, name: str | None = None, shape: Shape | None = None) -> str:
        """Keep a float32 tensor among the weights, in `shape` if that is given; return its name.

        A tensor that was kept in that shape before, or a small one of the same content, is not
        kept again.
        """
        shape = tuple(tensor.shape) if shape is None else shape
        key = (id(tensor), shape)
        if key not in self._kept:
            array = tensor.detach().to(torch.float32).contiguous().numpy().reshape(shape)
            content = (shape, array.tobytes()) if array.size <= _SMALL else key
            if content not in self._contents:
                called = self._called.get(id(tensor)) or name or self.label("constant")
                self._contents[content] = self.unique(called)
                self.graph.weights[self._contents[content]] = array
            self._kept[key] = self._contents[content]
            self._tensors.append(tensor)
        return self._kept[key]

    def vector(self, tensor: Tensor | None, channels: int) -> str | None:
        """Keep a tensor (channels,), if there is one, among the weights and return its name."""
        if tensor is None:
            return None
        if tuple(tensor.shape) != (channels,):
            raise self.refuse(f"expected a vector of {channels}, got {tuple(tensor.shape)}")
        return self.weight(tensor)

    def name_weight(self, tensor: Tensor, name: str) -> None:
        """Say what `tensor` is called if it turns out to be used."""
        self._called[id(tensor)] = name
        self._tensors.append(tensor)

    def keeps(self, given: object) -> bool:
        """Whether the memory of `given` is that of a weight."""
        places = {tensor.untyped_storage().data_ptr() for tensor in self._tensors}
        return isinstance(given, Tensor) and given.untyped_storage().data_ptr() in places

    def constant(self, tensor: Tensor, shape: Shape) -> View:
        """Return a view of a tensor that all images share."""
        name = self.weight(tensor, shape=shape)
        self.graph.values[name] = Value(1, tensor.numel(), "weight")
        return View.of(name, shape)

    def filled(self, value: float, shape: Shape) -> View:
        """Return a view of one number, repeated."""
        return self.constant(torch.tensor([value]), (1,) if shape else ()).expand(shape)

    def operand(self, given: Result) -> View | float:
        """Return an operand of an element-wise operator as a view for one image, or a number."""
        if isinstance(given, Rows):
            raise self.refuse("it computes with the size of the batch")
        if isinstance(given, (int, float)):
            return float(given)
        if isinstance(given, View):
            return given
        if not isinstance(given, Tensor):
            raise self.refuse(f"it reads a {type(given).__name__}")
        if given.numel() == 1:
            return float(given)
        shape = tuple(given.shape)
        _, lead = self.image_shape()
        if lead and len(shape) == len(self.node.meta["val"].shape):
            if shape[0] != 1:
                raise self.refuse(f"a constant of shape {shape} fixes the batch")
            shape = shape[1:]
        return self.constant(given, shape)

    def elementwise(self, op: str, operands: Sequence[View | float], program: list[Step]) -> View:
        """Append a program over operands of broadcastable shapes.

        Its output is laid out like the largest operand.
        """
        views = [view for view in operands if isinstance(view, View)]
        shape = tuple(np.broadcast_shapes(*(view.shape for view in views)))
        key = max(views, key=lambda view: view.numel)
        views = [view.expand(shape) for view in views]
        order = memory_order(key.expand(shape))
        inputs = tuple(view.permute(order) for view in views)
        y = View.of("", inputs[0].shape)
        return self.emit(Map(self.label(op), y, inputs, tuple(program))).permute(inverse(order))

    def copy(self, view: View, what: str = "copy") -> View:
        """Return `view` as a whole value of its own, in the order of its axes."""
        return self.emit(Map(self.label(what), View.of("", view.shape), (view,)))

    def reshape(self, view: View, shape: Shape) -> View:
        """Return `view` in another shape, copied if no strides can do it."""
        reshaped = view.reshape(shape)
        return reshaped or View.of(self.copy(view, "reshape").buffer, shape)

    def rows(self, view: View) -> View:
        """Return (..., C) as (pixels, C) with the channels together, copied if they are not."""
        channels = view.shape[-1]
        shape = (view.numel // channels, channels)
        rows = view.reshape(shape)
        if rows is None or not rows.together:
            rows = View.of(self.copy(view, "channels_last").buffer, shape)
        return rows

    def pixels(self, view: View) -> View:
        """Return (C, H, W) as (H, W, C) with the channels together, as kernels read images."""
        if len(view.shape) != 3:
            raise self.refuse(f"expected images (B, C, H, W), got {view.shape} for each image")
        last = view.permute((1, 2, 0))
        return self.reshape(self.rows(last), last.shape)

    def double(self, view: View) -> View:
        """Repeat every pixel of (C, H, W) 2 x 2 times in memory."""
        channels, height, width = view.shape
        apart = self.reshape(view, (channels, height, 1, width, 1)).expand(
            (channels, height, 2, width, 2)
        )
        doubled = self.copy(apart.permute((1, 2, 3, 4, 0)), "upsample")
        return self.reshape(doubled, (2 * height, 2 * width, channels)).permute((2, 0, 1))

    def concatenate(self, parts: Sequence[View], axis: int) -> View:
        """Append copies of `parts` into one value, along `axis`, and return it.

        It is laid out like the first part, `axis` last if that one leaves it open.
        """
        key = (tuple(parts), axis)
        if key in self._joined:
            return self._joined[key]
        shape = list(parts[0].shape)
        shape[axis] = sum(part.shape[axis] for part in parts)
        order = memory_order(parts[0])
        stored = tuple(shape[a] for a in order)
        rows = math.prod(stored[:-1])
        name = self.value(self.label("cat"), rows, stored[-1] if stored else 1)
        whole = View.of(name, stored).permute(inverse(order))
        begin = 0
        for part in parts:
            place = whole.slice(axis, begin, begin + part.shape[axis])
            self.append(
                Map(self.unique(f"{name}.part"), place.permute(order), (part.permute(order),))
            )
            self._parts.setdefault(name, []).append((place, part))
            begin += part.shape[axis]
        self._joined[key] = whole
        return whole

    def original(self, view: View) -> View:
        """Return the part of a concatenation that `view` is, or `view` itself."""
        known = self._parts.get(view.buffer, [])
        return next((part for place, part in known if place == view), view)


def short_name(path: str) -> str:
    """Return the path of a module or weight without what only wraps the network."""
    parts = path.split(".")
    while parts and parts[0] in {"module", "model"}:
        parts = parts[1:]
    return ".".join(parts)
