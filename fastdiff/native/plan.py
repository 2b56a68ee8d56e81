"""A network as kernel calls on buffers that are laid out for any batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.errors import ArtifactError
from fastdiff.native.checking import check_memory, check_node
from fastdiff.native.describing import describe_nodes
from fastdiff.native.nodes import KINDS, Conv, Node
from fastdiff.native.views import Shape, View

_FORMAT = 2
BUFFER_KINDS = ("arena", "input", "labels", "output", "weight")


@dataclass(frozen=True)
class Buffer:
    """Memory that views point into.

    Attributes
    ----------
    kind : str
        ``"arena"``; ``"input"`` or ``"output"``, float32 that a caller holds; ``"labels"``, int64
        of a caller; ``"weight"``, which all images share.
    size : int
        Elements from one image to the next.
    offset : int
        Where it begins in the arena of one image. The arena of B images is B times as large, and
        each buffer of it: image i of this one is at ``offset * B + size * i``.
    """

    kind: str
    size: int
    offset: int = 0


@dataclass(frozen=True)
class Plan:
    """The calls of one evaluation, in order.

    Attributes
    ----------
    nodes : tuple of Node
        Their views are of `buffers`.
    buffers : dict of str to Buffer
        By name; inputs are called as the network calls them, the output ``"output"``.
    shapes : dict of str to tuple of int
        Of the weights; convolutions have (N, C, kernel height, kernel width).
    arena_floats, live_floats : int
        Size of the arena for one image, and the most of it that is in use at once.
    weights : dict of str to array
        float32; empty where they have been packed and let go.

    Raises
    ------
    ArtifactError
        A node would touch memory that is not its own, or its operands do not fit.
    """

    nodes: tuple[Node, ...]
    buffers: Mapping[str, Buffer]
    shapes: Mapping[str, Shape]
    arena_floats: int
    live_floats: int
    weights: Mapping[str, NDArray[np.float32]] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        check_memory(self)
        for node in self.nodes:
            check_node(self, node)

    @property
    def convolutions(self) -> list[Conv]:
        """The nodes whose weights are packed."""
        return [node for node in self.nodes if isinstance(node, Conv)]

    def without_weights(self) -> Plan:
        """Return the plan without the values of its weights, once they have been packed."""
        return dataclasses.replace(self, weights={})

    def describe(
        self,
        seconds: Mapping[str, float] | None = None,
        algorithms: Mapping[str, str] | None = None,
        images: int = 1,
        ahead: Collection[str] = (),
    ) -> str:
        """Return a line for each node: what it computes, and how long it took if that is known.

        Parameters
        ----------
        seconds : mapping of str to float, optional
            Measured times by names of nodes, for all images.
        algorithms : mapping of str to str, optional
            How convolutions and attentions run, by name.
        images : int
            Of the batch.
        ahead : collection of str
            Nodes whose input the node before them rounds (`rounding.rounded_ahead`).
        """
        return describe_nodes(self.nodes, seconds, algorithms or {}, images, ahead)

    def to_json(self) -> dict[str, Any]:
        """Return everything but the values of the weights, as what ``json`` can write."""
        return {
            "format": _FORMAT,
            "arena_floats": self.arena_floats,
            "live_floats": self.live_floats,
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "buffers": {name: dataclasses.astuple(b) for name, b in self.buffers.items()},
            "nodes": [
                {"kind": type(node).__name__, **_plain(dataclasses.asdict(node))}
                for node in self.nodes
            ],
        }

    @classmethod
    def from_json(
        cls, data: Mapping[str, Any], weights: Mapping[str, NDArray[np.float32]] | None = None
    ) -> Plan:
        """Return the plan that `to_json` described, with its weights if they are given.

        Raises
        ------
        ArtifactError
            It is none, or a view of it leaves its buffer.
        """
        try:
            if data["format"] != _FORMAT:
                raise ArtifactError(f"expected a plan of format {_FORMAT}, got {data['format']!r}")
            return cls(
                tuple(_node(described) for described in data["nodes"]),
                {str(name): Buffer(*described) for name, described in data["buffers"].items()},
                {str(name): tuple(shape) for name, shape in data["shapes"].items()},
                data["arena_floats"],
                data["live_floats"],
                weights or {},
            )
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            if isinstance(error, ArtifactError):
                raise
            raise ArtifactError(f"expected a plan, got something else: {error!r}") from error


def _plain(value: Any) -> Any:
    """Return tuples as lists, as JSON has them."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, (list, tuple)) else value


def _node(described: Mapping[str, Any]) -> Node:
    arguments = {key: _typed(value) for key, value in described.items() if key != "kind"}
    return KINDS[described["kind"]](**arguments)


def _typed(value: Any) -> Any:
    """Return what `_plain` made of views and tuples as they were."""
    if isinstance(value, dict):
        return View(**{key: _typed(inner) for key, inner in value.items()})
    return tuple(_typed(inner) for inner in value) if isinstance(value, list) else value
