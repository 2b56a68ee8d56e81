"""Which convolutions of tiles have their input rounded by the node before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from fastdiff.native.algorithms import TILE_CHANNELS, Algorithm
from fastdiff.native.nodes import Conv, GroupNorm, LayerNorm
from fastdiff.native.nodes.node import Node, as_rows
from fastdiff.native.plan import Plan
from fastdiff.native.planning.graph import Graph
from fastdiff.native.planning.memory import assign, lifetimes, live_peak
from fastdiff.native.views import View


def delay_norms(graph: Graph) -> None:
    """Put each norm that a single node reads right before it, so that it may round its output."""
    readers = graph.readers()
    for norm in [node for node in graph.nodes if isinstance(node, (GroupNorm, LayerNorm))]:
        if readers[norm.y.buffer] == 1:
            graph.nodes.remove(norm)
            read = (any(v.buffer == norm.y.buffer for v in node.reads()) for node in graph.nodes)
            graph.nodes.insert(list(read).index(True), norm)


def rounded_ahead(plan: Plan, choices: Mapping[str, Algorithm]) -> set[str]:
    """Return the names of convolutions whose input the node before them can round.

    That node computes nothing else, nobody else reads it, and it has whole vectors to store.
    """
    return {
        node.name
        for index, (before, node) in enumerate(pairwise(plan.nodes))
        if isinstance(node, Conv)
        and _takes(node, choices.get(node.name, Algorithm()))
        and plan.buffers[node.x.buffer].kind == "arena"
        and before.roundable == as_rows(node.x)
        and _read_once(plan.nodes[index + 1 :], node.x)
    }


def without_rounded(plan: Plan, choices: Mapping[str, Algorithm]) -> Plan:
    """Return `plan` without memory for what is rounded ahead: it never goes through the arena."""
    ahead = rounded_ahead(plan, choices)
    if not ahead:
        return plan
    sizes = {name: b.size for name, b in plan.buffers.items() if b.kind == "arena"}
    found = lifetimes(plan.nodes, sizes, ahead)
    offsets, floats = assign(found)
    unused = [sizes[name] for name in sizes.keys() - found.keys()]  # their place means nothing
    buffers = {
        name: replace(buffer, offset=offsets.get(name, 0)) for name, buffer in plan.buffers.items()
    }
    return replace(
        plan, buffers=buffers, arena_floats=max(floats, *unused, 0), live_floats=live_peak(found)
    )


def _takes(node: Conv, choice: Algorithm) -> bool:
    """Whether its tiles are whole, and each pixel of x is one of theirs."""
    tile = TILE_CHANNELS.get(choice.algorithm)
    inside = all(
        size + padding < out + kernel
        for size, padding, out, kernel in zip(
            node.x.shape, node.padding, node.y.shape, node.kernel, strict=False
        )
    )
    whole = tile is not None and node.x.shape[2] % tile == 0
    doubled = node.upsample and not node.by_phases(choice.algorithm)
    return whole and inside and node.stride == 1 and not doubled


def _read_once(nodes: Sequence[Node], x: View) -> bool:
    """Whether what is in x now is read by one view alone: of the first of `nodes`."""
    for index, node in enumerate(nodes):
        views = sum(view.buffer == x.buffer for view in node.reads())
        if views != (index == 0):
            return False
        if node.y.buffer == x.buffer and as_rows(node.y) == as_rows(x):
            return True
    return True
