"""What must hold of a node before kernels may run it: it stays in its memory, and its parts fit.

Plans are read from files. A kernel trusts its arguments, so they are checked here, once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from fastdiff.errors import ArtifactError
from fastdiff.native.nodes import Node
from fastdiff.native.views import View

if TYPE_CHECKING:
    from fastdiff.native.plan import Plan

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
    for view in (node.y, *node.reads()):
        _check_view(plan, node, view)
    for name in node.weights_read():
        if name not in plan.shapes:
            raise ArtifactError(f"{node.name}: no weights {name!r}")
    if not node.fits(plan.shapes):
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
    if (buffer.kind == "labels") != any(view is labels for labels in node.labels):
        raise ArtifactError(f"{node.name}: labels are for embeddings alone")
