"""What must hold of a node before kernels may run it: it stays in its memory, and its parts fit.

Plans are read from files. A kernel trusts its arguments, so they are checked here, once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fastdiff.denoisers.network.nodes import (
    Attention,
    Conv,
    Gather,
    GroupNorm,
    LayerNorm,
    Map,
    Node,
    reads,
    weights_of,
)
from fastdiff.denoisers.network.operations import ACTIVATIONS, BINARY, UNARY
from fastdiff.denoisers.network.views import Shape, View
from fastdiff.errors import ArtifactError

if TYPE_CHECKING:
    from fastdiff.denoisers.network.plan import Plan

BUFFER_KINDS = ("arena", "input", "labels", "output", "weight")


def check_memory(plan: Plan) -> None:
    """Raise `ArtifactError` if the sizes of arena and buffers are none, or not those of weights."""
    numbers = [plan.arena_floats, *(n for b in plan.buffers.values() for n in (b.size, b.offset))]
    if any(type(n) is not int or n < 0 for n in numbers):
        raise ArtifactError("a size or an offset of the plan's buffers is no number of elements")
    for name, buffer in plan.buffers.items():
        if buffer.kind != "weight":
            continue
        if name not in plan.shapes or buffer.size != math.prod(plan.shapes[name]):
            raise ArtifactError(f"{name}: {buffer.size} elements are not those of its weights")


def check_node(plan: Plan, node: Node) -> None:
    """Raise `ArtifactError` if `node` would touch memory that is not its own."""
    for view in (node.y, *reads(node)):
        _check_view(plan, node, view)
    for name in weights_of(node):
        if name not in plan.shapes:
            raise ArtifactError(f"{node.name}: no weights {name!r}")
    if not _fits(node, plan.shapes):
        raise ArtifactError(f"{node.name}: its operands do not fit each other: {node}")


def _check_view(plan: Plan, node: Node, view: View) -> None:
    buffer = plan.buffers.get(view.buffer)
    if buffer is None or buffer.kind not in BUFFER_KINDS:
        raise ArtifactError(f"{node.name}: no buffer {view.buffer!r}")
    numbers = (view.offset, *view.shape, *view.strides)
    if any(type(n) is not int or n < 0 for n in numbers) or 0 in view.shape:
        raise ArtifactError(f"{node.name}: {view} is no view")
    if view.last >= buffer.size:
        raise ArtifactError(f"{node.name}: {view} leaves its {buffer.size} elements")
    in_arena = 0 <= buffer.offset <= plan.arena_floats - buffer.size
    if buffer.kind == "arena" and not in_arena:
        raise ArtifactError(f"{node.name}: {view.buffer} leaves the arena")
    if (buffer.kind == "labels") != (isinstance(node, Gather) and view is node.labels):
        raise ArtifactError(f"{node.name}: labels are for embeddings alone")


def _fits(node: Node, shapes: Mapping[str, Shape]) -> bool:
    """Whether the shapes of a node's operands and weights are those that its kernel assumes."""
    if isinstance(node, Conv):
        return _conv_fits(node, shapes)
    if isinstance(node, GroupNorm):
        groups = node.groups > 0 and node.x.shape[1] % node.groups == 0
        return groups and node.activation in ACTIVATIONS and _norm_fits(node, shapes)
    if isinstance(node, LayerNorm):
        extras = [view for view in (node.scale, node.shift) if view is not None]
        vectors = all(_vector(view, node.x.shape[-1]) for view in extras)
        return vectors and _norm_fits(node, shapes)
    if isinstance(node, Attention):
        (heads, queries, depth), keys = node.q.shape, node.k.shape[1]
        width = node.v.shape[2]
        alike = node.k.shape == (heads, keys, depth) and node.v.shape == (heads, keys, width)
        together = all(view.together for view in (node.q, node.k, node.v, node.y))
        return alike and together and node.y.shape == (heads, queries, width)
    if isinstance(node, Map):
        return _map_fits(node)
    return len(shapes[node.table]) == 2 and _vector(node.y, shapes[node.table][1])


def _conv_fits(node: Conv, shapes: Mapping[str, Shape]) -> bool:
    channels, out_channels = node.x.shape[2], node.y.shape[2]
    weights = shapes[node.weights] == (out_channels, channels, *node.kernel)
    bias = node.bias is None or shapes[node.bias] == (out_channels,)
    vectors = [view for view in (node.shift, node.scale) if view is not None]
    images = [view for view in (node.x, node.y, node.residual) if view is not None]
    residual = node.residual is None or node.residual.shape == node.y.shape
    numbers = node.stride > 0 and min(node.padding) >= 0 and node.activation in ACTIVATIONS
    return (
        weights and bias and residual and numbers
        and all(_vector(view, out_channels) for view in vectors)
        and all(len(view.shape) == 3 and _even(view) for view in images)
    )  # fmt: skip


def _norm_fits(node: GroupNorm | LayerNorm, shapes: Mapping[str, Shape]) -> bool:
    parameters = [shapes[name] for name in (node.gamma, node.beta) if name is not None]
    rows = len(node.x.shape) == 2 and _even(node.x) and _even(node.y)
    return rows and node.y.shape == node.x.shape and set(parameters) <= {node.x.shape[1:]}


def _map_fits(node: Map) -> bool:
    count = len(node.inputs)
    for position, (op, a, b, _) in enumerate(node.program):
        known = range(count + position)
        operands = {"constant": ()}.get(op, (a, b) if op in BINARY else (a,))
        if op not in {"constant", *UNARY, *BINARY} or any(i not in known for i in operands):
            return False
    copies = bool(node.program) or count == 1
    return copies and all(view.shape == node.y.shape for view in node.inputs)


def _vector(view: View, channels: int) -> bool:
    return view.shape == (channels,) and view.together


def _even(view: View) -> bool:
    """Whether the channels lie together and the pixels at one distance."""
    channels = view.shape[-1]
    rows = view.reshape((view.numel // channels, channels))
    return rows is not None and rows.together
