"""A network as a list of kernel calls on named values, before memory is assigned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from fastdiff.native.nodes import Node
from fastdiff.native.views import View

OUTPUT = "output"


@dataclass(frozen=True)
class Value:
    """Memory that belongs to one tensor: `rows` times `channels` elements, one after the other.

    Attributes
    ----------
    rows, channels : int
        For one image. What is written beside it in a wider buffer lies between its rows.
    kind : str
        ``"value"``, ``"input"``, ``"output"``, or ``"weight"``, which all images share.
    """

    rows: int
    channels: int
    kind: str = "value"

    @property
    def numel(self) -> int:
        """Elements for one image."""
        return self.rows * self.channels


@dataclass
class Graph:
    """Nodes in an order in which they can run; each value is written before it is read.

    Attributes
    ----------
    nodes : list of Node
        Their views are of values.
    values : dict of str to Value
    weights : dict of str to array
        float32; convolutions have (N, C, kernel height, kernel width).
    """

    nodes: list[Node] = field(default_factory=list)
    values: dict[str, Value] = field(default_factory=dict)
    weights: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def readers(self) -> Counter[str]:
        """Count the views that read each value."""
        return Counter(view.buffer for node in self.nodes for view in node.reads())

    def replace_views(self, change: Callable[[View], View]) -> None:
        """Change every view of every node."""
        self.nodes = [node.with_views(change) for node in self.nodes]

    def whole(self, view: View) -> bool:
        """Whether `view` has every element of its value once, in the order of memory."""
        value = self.values[view.buffer]
        flat = view.reshape((value.numel,)) if view.numel == value.numel else None
        return flat == View.of(view.buffer, (value.numel,))


def remove_dead(graph: Graph) -> None:
    """Drop nodes that nothing depends on, and the values and weights that only they knew."""
    needed = {OUTPUT}
    alive: list[Node] = []
    for node in reversed(graph.nodes):
        if node.y.buffer in needed:
            alive.append(node)
            needed.update(view.buffer for view in node.reads())
    graph.nodes = alive[::-1]
    graph.values = {
        name: value
        for name, value in graph.values.items()
        if name in needed or value.kind == "input"
    }


def sort_nodes(graph: Graph) -> None:
    """Put every node after all writers of what it reads, and otherwise leave the order alone."""
    writers: dict[str, list[int]] = {}
    for index, node in enumerate(graph.nodes):
        writers.setdefault(node.y.buffer, []).append(index)
    order: list[int] = []
    done: set[int] = set()
    for root in range(len(graph.nodes)):
        stack = [root]
        while stack:
            index = stack[-1]
            names = (view.buffer for view in graph.nodes[index].reads())
            missing = [w for name in names for w in writers.get(name, ()) if w not in done]
            if missing and index not in done:
                stack.extend(reversed(missing))
                continue
            stack.pop()
            if index not in done:
                done.add(index)
                order.append(index)
    graph.nodes = [graph.nodes[index] for index in order]
