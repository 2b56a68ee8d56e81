"""Chains of element-wise nodes as one node, and all of them in as few axes as they need."""

from __future__ import annotations

from dataclasses import replace

from fastdiff.native.nodes import MAP_AXES, MAP_INPUTS, MAP_STEPS, Map, Node, Step
from fastdiff.native.operations import OPERATIONS
from fastdiff.native.planning.graph import Graph, remove_dead
from fastdiff.native.views import View, merge_axes


def merge_maps(graph: Graph) -> None:
    """Compute element-wise operands where they are read, if that repeats no work worth naming."""
    counts = graph.readers()
    writers: dict[str, Map | None] = {}  # None: several nodes write it
    merged: list[Node] = []
    for node in graph.nodes:
        if isinstance(node, Map):
            node = _with_operands(graph, node, writers, counts)
            known = node.y.buffer in writers
            writers[node.y.buffer] = None if known or not graph.whole(node.y) else node
        merged.append(node)
    graph.nodes = merged
    remove_dead(graph)


def _with_operands(
    graph: Graph, node: Map, writers: dict[str, Map | None], counts: dict[str, int]
) -> Map:
    """Replace operands of `node` by the programs that compute them, one after the other."""
    index = 0
    while index < len(node.inputs):
        view = node.inputs[index]
        producer = writers.get(view.buffer)
        joined = _joined(node, index, producer) if producer and node.program else None
        uses = sum(other.buffer == view.buffer for other in node.inputs)
        once = producer is not None and counts[view.buffer] == uses
        if joined is None or producer is None or not _pays(producer, view, once):
            index += 1
        else:
            node = joined
    return node


def _pays(producer: Map, view: View, once: bool) -> bool:
    """Whether computing `producer` where it is read costs less than keeping its result."""
    if not producer.program:
        return False
    cheap = all(op == "constant" or OPERATIONS[op].cheap for op, *_ in producer.program)
    if once:
        return cheap or view.numel == producer.y.numel
    full = [operand for operand in producer.inputs if 0 not in operand.strides]
    return cheap and view.numel == producer.y.numel and len(full) <= 1


def _joined(node: Map, index: int, producer: Map) -> Map | None:
    """Return `node` with `producer` in place of all equal operands, None if it cannot be said."""
    view = node.inputs[index]
    operands = [_through(view, producer.y, operand) for operand in producer.inputs]
    if None in operands:
        return None
    kept = [operand for operand in node.inputs if operand != view]
    inputs = list(dict.fromkeys([*kept, *(o for o in operands if o is not None)]))
    steps = len(producer.program)
    if len(inputs) > MAP_INPUTS or steps + len(node.program) > MAP_STEPS:
        return None
    first = [inputs.index(o) for o in operands if o is not None]
    first += [len(inputs) + i for i in range(steps)]
    result = len(inputs) + steps - 1
    second = [result if o == view else inputs.index(o) for o in node.inputs]
    second += [len(inputs) + steps + i for i in range(len(node.program))]
    program = (*_renumbered(producer.program, first), *_renumbered(node.program, second))
    return replace(node, inputs=tuple(inputs), program=program)


def _renumbered(program: tuple[Step, ...], places: list[int]) -> list[Step]:
    return [
        step if step[0] == "constant" else (step[0], places[step[1]], places[step[2]], step[3])
        for step in program
    ]


def _through(view: View, y: View, operand: View) -> View | None:
    """Return `operand`, which has the axes of the whole value `y`, as `view` of `y` sees it."""
    if view.offset != y.offset:
        return None
    by_stride = {
        stride: axis
        for axis, (n, stride) in enumerate(zip(y.shape, y.strides, strict=True))
        if n > 1
    }
    strides = []
    for size, stride in zip(view.shape, view.strides, strict=True):
        axis = by_stride.get(stride)
        if stride and (axis is None or y.shape[axis] != size):
            return None
        strides.append(0 if axis is None or not stride else operand.strides[axis])
    return View(operand.buffer, operand.offset, view.shape, tuple(strides))


def compact_maps(graph: Graph) -> None:
    """Merge the axes of every element-wise node; split those that have more than kernels take."""
    graph.nodes = [
        part
        for node in graph.nodes
        for part in (_compact(node) if isinstance(node, Map) else [node])
    ]


def _compact(node: Map) -> list[Map]:
    order = sorted(range(len(node.y.shape)), key=lambda a: -node.y.strides[a])
    y, *inputs = merge_axes([view.permute(order) for view in (node.y, *node.inputs)])
    node = replace(node, y=y, inputs=tuple(inputs))
    if len(y.shape) <= MAP_AXES:
        return [node]
    axis = min(range(len(y.shape)), key=lambda a: y.shape[a])
    return [
        part
        for i in range(y.shape[axis])
        for part in _compact(
            replace(
                node,
                name=f"{node.name}[{i}]",
                y=y.slice(axis, i, i + 1),
                inputs=tuple(view.slice(axis, i, i + 1) for view in inputs),
            )
        )
    ]
