"""A plan for people: a line for each node, and one for each kind of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from fastdiff.native.nodes import Node

_TEXTS = ("kind", "name", "shape", "with")
_NONE: Mapping[str, str] = {}


@dataclass(frozen=True)
class Total:
    """The nodes of one kind together.

    Attributes
    ----------
    kind : str
        As `node_rows` calls it.
    nodes : int
    flops : int
        Of all images, as `Node.flops` counts them.
    seconds : float
        0 where nothing was measured.
    """

    kind: str
    nodes: int
    flops: int
    seconds: float


def describe_nodes(
    nodes: Sequence[Node],
    seconds: Mapping[str, float] | None = None,
    algorithms: Mapping[str, str] = _NONE,
    images: int = 1,
    ahead: Collection[str] = (),
) -> str:
    """Return what each node computes as aligned columns; arguments are those of `node_rows`."""
    return _aligned(node_rows(nodes, seconds, algorithms, images, ahead), len(_TEXTS))


def node_rows(
    nodes: Sequence[Node],
    seconds: Mapping[str, float] | None = None,
    algorithms: Mapping[str, str] = _NONE,
    images: int = 1,
    ahead: Collection[str] = (),
) -> list[list[str]]:
    """Return a table of what each node computes, the headings first.

    Parameters
    ----------
    nodes : sequence of Node
    seconds : mapping of str to float, optional
        Measured times by names of nodes, for all images.
    algorithms : mapping of str to str
        How convolutions and attentions run, by name.
    images : int
        Of the batch; shapes are those of one image.
    ahead : collection of str
        Nodes whose input the node before them rounds.
    """
    rows = [[*_TEXTS, "MFLOP", *(["GFLOP/s", "ms"] if seconds else [])]]
    for node in nodes:
        work = images * node.flops
        parts = [*node.parts(), *(["rounded ahead"] if node.name in ahead else [])]
        row = [kind(node, algorithms), node.name, node.shape_text, ", ".join(parts)]
        row.append(_number(work / 1e6, 2))
        if seconds:
            row += _timed(work, seconds[node.name])
        rows.append(row)
    return rows


def total_rows(totals: Sequence[Total]) -> list[list[str]]:
    """Return a table of the nodes of each kind, and of all, the headings first."""
    everything = Total(
        "all",
        sum(total.nodes for total in totals),
        sum(total.flops for total in totals),
        sum(total.seconds for total in totals),
    )
    rows = [["kind", "nodes", "MFLOP"]]
    if everything.seconds:
        rows[0] += ["GFLOP/s", "ms", "share"]
    for total in (*totals, everything):
        row = [total.kind, str(total.nodes), _number(total.flops / 1e6, 2)]
        if everything.seconds:
            share = f"{total.seconds / everything.seconds:.1%}"
            row += [*_timed(total.flops, total.seconds), share]
        rows.append(row)
    return rows


def total_by_kind(
    nodes: Sequence[Node],
    seconds: Mapping[str, float] | None = None,
    algorithms: Mapping[str, str] = _NONE,
    images: int = 1,
) -> list[Total]:
    """Return the totals of each kind, the longest first; arguments are those of `node_rows`.

    Without times, the one with most operations is first.
    """
    groups: dict[str, list[Node]] = {}
    for node in nodes:
        groups.setdefault(kind(node, algorithms), []).append(node)
    totals = [
        Total(
            name,
            len(members),
            images * sum(node.flops for node in members),
            sum(seconds[node.name] for node in members) if seconds else 0.0,
        )
        for name, members in groups.items()
    ]
    return sorted(totals, key=lambda total: (-total.seconds, -total.flops))


def kind(node: Node, algorithms: Mapping[str, str] = _NONE) -> str:
    """Return what a node is, and how it runs if that is known: ``"Conv winograd4"``."""
    return " ".join(filter(None, [type(node).__name__, algorithms.get(node.name)]))


def _timed(work: int, seconds: float) -> list[str]:
    return [_number(work / max(seconds, 1e-9) / 1e9, 1), f"{1e3 * seconds:.3f}"]


def _number(value: float, digits: int) -> str:
    return f"{value:.{digits}f}" if value else ""


def _aligned(rows: Sequence[Sequence[str]], texts: int) -> str:
    """Return columns, the first `texts` of them to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(
            cell.ljust(width) if i < texts else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
