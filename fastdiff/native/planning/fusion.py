"""What kernels take along: epilogues of convolutions and norms, and all of an attention.

Each pass replaces a node and the only reader of its output by one node. The output of the reader
takes the place of the node's own, and other operands are computed earlier (`sort_nodes`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

from fastdiff.native.nodes import (
    Conv,
    GroupNorm,
    LayerNorm,
    Map,
    Node,
    Step,
)
from fastdiff.native.operations import ACTIVATIONS
from fastdiff.native.planning.attention import fuse_attention
from fastdiff.native.planning.graph import Graph, remove_dead, sort_nodes
from fastdiff.native.views import View

_N = TypeVar("_N", Conv, GroupNorm, LayerNorm)


def fuse(graph: Graph) -> None:
    """Let attention take what it is written of, convolutions and norms what follows them."""
    fuse_attention(graph)
    _absorb(graph, Conv, _conv_takes)
    _absorb(graph, GroupNorm, _group_norm_takes)
    _absorb(graph, LayerNorm, lambda node, op, other: _layer_norm_takes(graph, node, op, other))
    sort_nodes(graph)
    remove_dead(graph)


def _absorb(
    graph: Graph, kind: type[_N], takes: Callable[[_N, str, View | None], _N | None]
) -> None:
    """Let nodes of `kind` absorb their only reader for as long as `takes` has an answer."""
    position = {node.y.buffer: i for i, node in enumerate(graph.nodes)}
    nodes: list[Node | None] = list(graph.nodes)
    counts = graph.readers()
    reader_of = {view.buffer: i for i, node in enumerate(graph.nodes) for view in node.reads()}
    for first in graph.nodes:
        if not isinstance(first, kind):
            continue
        index, node = position[first.y.buffer], first
        while counts[node.y.buffer] == 1:
            at = reader_of[node.y.buffer]
            user = nodes[at]
            taken = _step_after(graph, node, user)
            fused = takes(node, *taken) if taken else None
            if fused is None or not isinstance(user, Map):
                break
            # The new output is laid out as the old one was: (…, C), rows in the same order.
            y = View.of(user.y.buffer, node.y.shape)
            graph.values[y.buffer] = replace(
                graph.values[node.y.buffer], kind=graph.values[y.buffer].kind
            )
            nodes[at], node = None, replace(fused, y=y)
            nodes[index] = node
    graph.nodes = [node for node in nodes if node is not None]


def _step_after(graph: Graph, node: Node, user: Node | None) -> tuple[str, View | None] | None:
    """Return (operation, other operand as (rows, channels)) if one step reads y in order."""
    if not isinstance(user, Map) or len(user.program) != 1 or not graph.whole(user.y):
        return None
    op, a, b, _ = user.program[0]
    channels = node.y.shape[-1]
    rows = node.y.numel // channels
    shape = (rows, channels)
    views = [user.inputs[a], user.inputs[b]] if len(user.inputs) == 2 else [user.inputs[a]]
    as_rows = [view.reshape(shape) if view.numel == rows * channels else None for view in views]
    mine = View.of(node.y.buffer, shape)
    if mine not in as_rows or None in as_rows:
        return None
    if len(views) == 1:
        return (op, None) if op in ACTIVATIONS else None
    other = as_rows[1] if as_rows[0] == mine else as_rows[0]
    return None if other == mine else (op, other)


def _per_image(view: View) -> View | None:
    """Return a (rows, C) view as (C,) if all rows of it are the same."""
    repeats = view.strides[0] == 0
    return view.slice(0, 0, 1).drop(0) if repeats and view.together else None


def _conv_takes(node: Conv, op: str, other: View | None) -> Conv | None:
    if node.residual is not None:
        return None
    plain = node.activation == "none" and node.scale is None
    if other is None:
        return replace(node, activation=op) if plain else None
    vector = _per_image(other)
    if op == "add" and vector is not None and plain and node.shift is None:
        return replace(node, shift=vector)
    if op == "multiply" and vector is not None and node.scale is None:
        return replace(node, scale=vector)
    if op == "add" and other.together:
        residual = other.reshape(node.y.shape)
        return None if residual is None else replace(node, residual=residual)
    return None


def _group_norm_takes(node: GroupNorm, op: str, other: View | None) -> GroupNorm | None:
    takes = other is None and op == "silu" and node.activation == "none"
    return replace(node, activation=op) if takes else None


def _layer_norm_takes(
    graph: Graph, node: LayerNorm, op: str, other: View | None
) -> LayerNorm | None:
    vector = _per_image(other) if other is not None else None
    if vector is None:
        return None
    if op == "add" and node.shift is None:
        return replace(node, shift=vector)
    if op == "multiply" and node.scale is None and node.shift is None:
        scale = _minus_one(graph, vector)
        return None if scale is None else replace(node, scale=scale)
    return None


def _minus_one(graph: Graph, vector: View) -> View | None:
    """Return the view v of which `vector` is 1 + v, if that is how it is computed."""
    one_plus: list[Step] = [("constant", 0, 0, 1.0), ("add", 0, 1, 0.0)]
    flipped: list[Step] = [one_plus[0], ("add", 1, 0, 0.0)]
    for node in graph.nodes:
        if isinstance(node, Map) and node.y.buffer == vector.buffer:
            source = node.inputs[0].reshape(vector.shape) if graph.whole(vector) else None
            if source is None or not source.together:
                return None
            return source if list(node.program) in (one_plus, flipped) else None
    return None
