"""Where each value lies in the arena, and which values share a place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from fastdiff.native.nodes import Conv, Node
from fastdiff.native.planning.graph import Graph

ALIGNMENT = 16  # floats: a cache line, and the widest vector


@dataclass(frozen=True)
class Lifetime:
    """A value's size in floats, and the first and last node that it must be there for."""

    floats: int
    first: int
    last: int


def reuse_inputs(graph: Graph) -> None:
    """Let nodes write over an operand that nobody reads after them, if their kernel allows it."""
    last = {view.buffer: i for i, node in enumerate(graph.nodes) for view in node.reads()}
    writes = Counter(node.y.buffer for node in graph.nodes)
    for index in range(len(graph.nodes)):
        node = graph.nodes[index]
        old = _overwritable(graph, node)
        if old is None or last[old] != index or writes[node.y.buffer] > 1:
            continue
        new = node.y.buffer
        last[old] = last.pop(new, index)
        del graph.values[new]
        graph.replace_views(lambda v, o=old, n=new: replace(v, buffer=o) if v.buffer == n else v)  # type: ignore[misc]


def _overwritable(graph: Graph, node: Node) -> str | None:
    """Return the operand that `node` reads exactly where it would write it, if it may."""
    y = node.y
    for view in node.overwritable:
        old, new = graph.values[view.buffer], graph.values[y.buffer]
        alike = replace(view, buffer=y.buffer) == y and old == new and old.kind == "value"
        others = [v for v in node.reads() if v.buffer == view.buffer and v != view]
        if alike and not others and view.buffer != y.buffer:
            return view.buffer
    return None


def lifetimes(
    nodes: Sequence[Node], sizes: Mapping[str, int], rounded: Collection[str] = ()
) -> dict[str, Lifetime]:
    """Return the lifetime of every value that goes through the arena.

    Parameters
    ----------
    nodes : sequence of Node
    sizes : mapping of str to int
        Floats of each value of the arena, which are rounded up to `ALIGNMENT`.
    rounded : collection of str
        Convolutions whose input the node before them rounds to memory of their own.
    """
    found: dict[str, Lifetime] = {}
    for index, node in enumerate(nodes):
        names = {view.buffer for view in node.reads()}
        if isinstance(node, Conv) and node.name in rounded:
            names.discard(node.x.buffer)
        if index + 1 == len(nodes) or nodes[index + 1].name not in rounded:
            names.add(node.y.buffer)
        for name in names & sizes.keys():
            floats = -(-sizes[name] // ALIGNMENT) * ALIGNMENT
            known = found.get(name, Lifetime(floats, index, index))
            found[name] = replace(known, last=index)
    return found


def assign(found: dict[str, Lifetime]) -> tuple[dict[str, int], int]:
    """Return the offset of every value, and the floats of the arena.

    Values are placed from the largest to the smallest, each in the tightest gap that is free while
    it lives (Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net Inference",
    arXiv 2001.03288, algorithm 3).
    """
    offsets: dict[str, int] = {}
    for name, life in sorted(found.items(), key=lambda item: (-item[1].floats, item[1].first)):
        taken = sorted(
            (offset, offset + found[other].floats)
            for other, offset in offsets.items()
            if found[other].first <= life.last and life.first <= found[other].last
        )
        offsets[name] = _tightest(taken, life.floats)
    ends = (offsets[name] + life.floats for name, life in found.items())
    return offsets, max(ends, default=0)


def _tightest(taken: Iterable[tuple[int, int]], floats: int) -> int:
    """Return where the smallest gap of at least `floats` begins, the end if there is none."""
    end, best = 0, None
    for begin, stop in taken:
        gap = begin - end
        if gap >= floats and (best is None or gap < best[0]):
            best = (gap, end)
        end = max(end, stop)
    return end if best is None else best[1]


def live_peak(found: dict[str, Lifetime]) -> int:
    """Return the most floats that live at one node: no arena can be smaller."""
    nodes = range(max((life.last for life in found.values()), default=-1) + 1)
    return max(
        (sum(v.floats for v in found.values() if v.first <= i <= v.last) for i in nodes), default=0
    )
