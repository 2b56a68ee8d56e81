"""Values inside other values: joined linear layers, concatenations, the output."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from fastdiff.native.nodes import Conv, Map
from fastdiff.native.planning.graph import Graph, Value
from fastdiff.native.views import View

_TOGETHER = 3  # nodes from one to the next of those that join, as q, k and v stand


def join_linears(graph: Graph) -> None:
    """Compute linear layers of one input as one layer, whose output holds theirs side by side.

    Those of a vector, such as a time embedding, join from everywhere; of many tokens only those
    that stand together, or the results of a whole network would wait in memory.
    """
    groups: dict[object, list[list[str]]] = {}
    last: dict[str, int] = {}
    for index, node in enumerate(graph.nodes):
        if isinstance(node, Conv) and _joins(graph, node):
            runs = groups.setdefault((node.x, node.activation, node.bias is None), [])
            one_row = node.y.numel == node.y.shape[-1]
            if not runs or not (one_row or index - last[runs[-1][-1]] <= _TOGETHER):
                runs.append([])
            runs[-1].append(node.name)
            last[node.name] = index
    for names in (names for runs in groups.values() for names in runs if len(names) > 1):
        members = [node for node in graph.nodes if node.name in names and isinstance(node, Conv)]
        _join(graph, members)


def _joins(graph: Graph, node: Conv) -> bool:
    """Whether `node` is a linear layer alone, and its output may be a part of a wider one."""
    extras = (node.shift, node.scale, node.residual)
    linear = node.kernel == (1, 1) and node.stride == 1 and not node.upsample
    own = graph.values[node.y.buffer].kind == "value" and _widens(graph, node.y.buffer)
    return linear and extras == (None,) * 3 and own


def _join(graph: Graph, members: list[Conv]) -> None:
    """Replace `members` by one node in the place of the first."""
    name = join_names([node.name for node in members])
    rows = graph.values[members[0].y.buffer].rows
    channels = sum(node.y.shape[-1] for node in members)
    graph.values[name] = Value(rows, channels)
    weights, bias = f"{name}.weight", f"{name}.bias" if members[0].bias is not None else None
    graph.weights[weights] = np.concatenate([graph.weights[node.weights] for node in members])
    if bias is not None:
        graph.weights[bias] = np.concatenate([graph.weights[str(n.bias)] for n in members])
    y = View.of(name, (*members[0].y.shape[:-1], channels))
    joined = replace(members[0], name=name, y=y, weights=weights, bias=bias)
    first = graph.nodes.index(members[0])
    graph.nodes = [node for node in graph.nodes if node not in members]
    graph.nodes.insert(first, joined)
    begin = 0
    for member in members:
        _place(graph, member.y.buffer, name, begin, channels)
        begin += member.y.shape[-1]


def join_names(names: list[str]) -> str:
    """Return ``a.{b,c}.d`` for ``a.b.d`` and ``a.c.d``, and count where there are many."""
    parts = [name.split(".") for name in names]
    if len(names) > 3 or len({len(p) for p in parts}) != 1:
        return f"{names[0]} and {len(names) - 1} more"
    columns = [list(dict.fromkeys(column)) for column in zip(*parts, strict=True)]
    return ".".join(c[0] if len(c) == 1 else "{" + ",".join(c) + "}" for c in columns)


def place_copies(graph: Graph) -> None:
    """Let producers write straight to where copies would take their output.

    The nodes' order is final before this: afterwards the parts of a value are no longer told apart.
    """
    for name in [node.name for node in graph.nodes if isinstance(node, Map) and not node.program]:
        index = next(i for i, node in enumerate(graph.nodes) if node.name == name)
        copy = graph.nodes[index]
        target = _target(graph, copy) if isinstance(copy, Map) else None
        if target is not None and isinstance(copy, Map):
            del graph.nodes[index]
            _place(graph, copy.inputs[0].buffer, copy.y.buffer, *target)


def _target(graph: Graph, copy: Map) -> tuple[int, int] | None:
    """Return where the rows of a copied value may lie: the offset, and the step between rows."""
    source, y = copy.inputs[0], copy.y
    value = graph.values[source.buffer]
    order = sorted(range(len(source.shape)), key=lambda a: -source.strides[a])
    whole = source.permute(order)
    if value.kind != "value" or not graph.whole(whole) or source.buffer == y.buffer:
        return None
    rows = y.permute(order).reshape((value.rows, value.channels))
    if rows is None or not rows.together:
        return None
    apart = value.rows > 1 and rows.strides[0] != value.channels
    if apart and not _widens(graph, source.buffer):
        return None
    return rows.offset, rows.strides[0]


def _widens(graph: Graph, name: str) -> bool:
    """Whether every view of a value stays one when its rows move apart."""
    value = graph.values[name]
    views = (view for node in graph.nodes for view in (node.y, *node.reads()))
    return all(_in_rows(view, value.channels) for view in views if view.buffer == name)


def _in_rows(view: View, channels: int) -> bool:
    inside = [
        step * (n - 1) for n, step in zip(view.shape, view.strides, strict=True) if step % channels
    ]
    return view.offset % channels + sum(inside) < channels


def _place(graph: Graph, name: str, into: str, offset: int, step: int) -> None:
    """Make value `name` a part of value `into`: its row i begins at ``offset + i * step``."""
    channels = graph.values.pop(name).channels

    def moved(view: View) -> View:
        if view.buffer != name:
            return view
        row, channel = divmod(view.offset, channels)
        strides = (s // channels * step if s % channels == 0 else s for s in view.strides)
        return View(into, offset + row * step + channel, view.shape, tuple(strides))

    graph.replace_views(moved)
