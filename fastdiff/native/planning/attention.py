"""Attention that a network writes out: two products and the softmax between them as one node."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

from fastdiff.native.nodes import Attention, Map, Node, Product, Softmax
from fastdiff.native.planning.graph import Graph, remove_dead
from fastdiff.native.views import View, see_through


def fuse_attention(graph: Graph) -> None:
    """Replace ``softmax(scale a b) v`` by `Attention`, which never stores a score.

    Factors of the scores, and of the queries and keys before, become its scale. What it takes the
    place of is read by nothing else then.
    """
    counts = graph.readers()
    writes = Counter(node.y.buffer for node in graph.nodes)
    writers = {
        node.y.buffer: node
        for node in graph.nodes
        if writes[node.y.buffer] == 1 and graph.whole(_in_order(node.y))
    }
    graph.nodes = [
        (_attention(graph, node, writers, counts) or node) if isinstance(node, Product) else node
        for node in graph.nodes
    ]
    remove_dead(graph)


def _in_order(view: View) -> View:
    return view.permute(sorted(range(len(view.shape)), key=lambda axis: -view.strides[axis]))


def _attention(
    graph: Graph, node: Product, writers: Mapping[str, Node], counts: Mapping[str, int]
) -> Attention | None:
    """Return what computes all that `node` and only it depends on, if that is attention."""
    softmax = writers.get(node.a.buffer)
    if not isinstance(softmax, Softmax) or not graph.whole(softmax.x) or node.scale != 1:
        return None
    along = node.a.shape[2] == softmax.y.shape[1] and node.a.strides[2] == 1
    view, scale = _unscaled(replace(node.a, buffer=softmax.x.buffer), writers)
    scores = writers.get(view.buffer)
    if not along or not isinstance(scores, Product) or view != scores.y:
        return None
    if any(counts[name] != 1 for name in (node.a.buffer, softmax.x.buffer, view.buffer)):
        return None
    q, q_scale = _unscaled(scores.a, writers)
    k, k_scale = _unscaled(scores.b.permute((0, 2, 1)), writers)
    scale *= scores.scale * q_scale * k_scale
    attention = Attention(node.name, q, k, node.b, node.y, scale, nan_without_shares=True)
    return attention if attention.fits({}) and math.isfinite(scale) else None


def _unscaled(view: View, writers: Mapping[str, Node]) -> tuple[View, float]:
    """Return what a view is a multiple or a copy of, as long as its last axis lies together."""
    scale = 1.0
    while True:
        writer = writers.get(view.buffer)
        factor = _factor(writer) if isinstance(writer, Map) else None
        if factor is None or not isinstance(writer, Map):
            return view, scale
        source = see_through(view, writer.y, writer.inputs[0])
        if source is None or not source.together:
            return view, scale
        view, scale = source, scale * factor


def _factor(node: Map) -> float | None:
    """Return the number that a node multiplies its only input by, if that is all it does."""
    if not node.program:
        return 1.0
    if len(node.inputs) != 1 or len(node.program) != 2 or node.program[0][0] != "constant":
        return None
    number, (op, *operands, _) = node.program[0][3], node.program[1]
    if op == "multiply" and sorted(operands) == [0, 1]:
        return number
    return 1 / number if op == "divide" and operands == [0, 1] and number else None
