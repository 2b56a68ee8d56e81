"""A plan for people: a line for each node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastdiff.denoisers.network.nodes import (
    Attention,
    Conv,
    Gather,
    GroupNorm,
    LayerNorm,
    Map,
    Node,
)
from fastdiff.denoisers.network.views import View

_HEADINGS = ("kind", "name", "shape", "with", "MFLOP", "ms")


def describe_nodes(nodes: Sequence[Node], seconds: Mapping[str, float] | None = None) -> str:
    """Return a table of what each node computes for one image.

    Parameters
    ----------
    nodes : sequence of Node
    seconds : mapping of str to float, optional
        Measured times by names of nodes.
    """
    columns = len(_HEADINGS) if seconds else len(_HEADINGS) - 1
    rows = [_HEADINGS[:columns]]
    for node in nodes:
        work = flops(node)
        row = [type(node).__name__, node.name, _shape(node), ", ".join(_parts(node))]
        row.append(f"{work / 1e6:.2f}" if work else "")
        if seconds:
            row.append(f"{1e3 * seconds[node.name]:.3f}")
        rows.append(tuple(row))
    widths = [max(len(row[i]) for row in rows) for i in range(columns)]
    lines = (
        "  ".join(
            cell.rjust(width) if i > 3 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def flops(node: Node) -> int:
    """Return the multiplications and additions of the sums of products, for one image."""
    if isinstance(node, Conv):
        return 2 * node.y.numel * node.kernel[0] * node.kernel[1] * node.x.shape[2]
    if isinstance(node, Attention):
        heads, queries, depth = node.q.shape
        return 2 * heads * queries * node.k.shape[1] * (depth + node.v.shape[2])
    return 0


def _shape(node: Node) -> str:
    if isinstance(node, Conv):
        return f"{_sizes(node.x)} -> {_sizes(node.y)}"
    if isinstance(node, Attention):
        return f"{_sizes(node.q)} on {node.k.shape[1]}"
    return _sizes(node.y)


def _sizes(view: View) -> str:
    return "x".join(str(size) for size in view.shape)


def _parts(node: Node) -> list[str]:
    """Return what a node does besides what its kind says."""
    if isinstance(node, Conv):
        taps = "" if node.kernel == (1, 1) else f"{node.kernel[0]}x{node.kernel[1]}"
        stride = f"stride {node.stride}" if node.stride > 1 else ""
        doubled = "upsample" if node.upsample else ""
        return list(filter(None, [taps, stride, doubled, *_epilogue(node)]))
    if isinstance(node, GroupNorm):
        return [f"{node.groups} groups", *_activation(node.activation)]
    if isinstance(node, LayerNorm):
        extras = [name for name in ("scale", "shift") if getattr(node, name) is not None]
        return extras if node.centred else ["root mean square", *extras]
    if isinstance(node, Map):
        return [op for op, *_ in node.program if op != "constant"] or ["copy"]
    return [node.table] if isinstance(node, Gather) else []


def _epilogue(node: Conv) -> list[str]:
    """In the order in which it is applied."""
    before = ["shift"] if node.shift is not None else []
    after = [name for name in ("scale", "residual") if getattr(node, name) is not None]
    return [*before, *_activation(node.activation), *after]


def _activation(name: str) -> list[str]:
    return [] if name == "none" else [name]
