"""A plan on real memory: the calls of one batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.errors import ArtifactError
from fastdiff.native.algorithms import Algorithm
from fastdiff.native.nodes import Conv
from fastdiff.native.plan import Plan
from fastdiff.native.planning.rounding import rounded_ahead
from fastdiff.native.running.packing import halved, packed_arrays, unpacked
from fastdiff.native.views import View

_FLOAT_BYTES, _LABEL_BYTES = 4, 8


def bind(
    plan: Plan,
    native: _native.NetworkPlan,
    batch: int,
    addresses: Mapping[str, int],
    arena: int,
    packed: Mapping[str, NDArray[Any]],
    choices: Mapping[str, Algorithm],
    ranges: Mapping[str, NDArray[np.float32]] | None = None,
) -> None:
    """Append the calls of a plan, for one batch size, to a native plan.

    Parameters
    ----------
    plan : Plan
    native : NetworkPlan
        An empty one.
    batch : int
        Images.
    addresses : mapping of str to int
        Where the inputs and the output of the network are, all contiguous.
    arena : int
        Address of ``batch * plan.arena_floats`` floats.
    packed : mapping of str to array
        What `pack` returned for the same choices. It must outlive the native plan.
    choices : mapping of str to Algorithm
        By names of nodes; the others run directly.
    ranges : mapping of str to array, optional
        (2, C) for each convolution by name, which every run widens to hold its inputs.

    Raises
    ------
    ArtifactError
        Packed weights are missing, or not those of the plan.
    """
    check_weights(plan, packed, choices, native.panel)
    weights = {name: array.ctypes.data for name, array in packed.items()}
    memory = Addresses(plan, batch, addresses, arena, weights, packed)
    ahead = rounded_ahead(plan, choices) if ranges is None else set()
    for node in plan.nodes:
        if ranges is not None and isinstance(node, Conv):
            native.observe(f"input of {node.name}", **_observed(memory, node, ranges[node.name]))
        arguments = node.arguments(memory, choices.get(node.name, Algorithm()))
        if node.name in ahead:
            arguments["ahead"] = True
        getattr(native, node.method)(node.name, **arguments)


def check_weights(
    plan: Plan, packed: Mapping[str, NDArray[Any]], choices: Mapping[str, Algorithm], panel: int
) -> None:
    """Raise `ArtifactError` if kernels are not there, or would read an array beyond its end."""
    _check_algorithms(plan, choices)
    for name, (dtype, size) in expected_arrays(plan, choices, panel).items():
        array = packed.get(name)
        if array is None or array.dtype != dtype or array.size != size:
            got = "nothing" if array is None else f"{array.size} of {array.dtype}"
            raise ArtifactError(f"{name}: expected {size} of {np.dtype(dtype)}, got {got}")


def expected_arrays(
    plan: Plan, choices: Mapping[str, Algorithm], panel: int
) -> dict[str, tuple[type, int]]:
    """Return the element type and number of every array that `pack` makes, by name."""
    expected: dict[str, tuple[type, int]] = {
        name: (np.float32, math.prod(plan.shapes[name])) for name in unpacked(plan, choices)
    }
    for gather in halved(plan, choices):
        expected[gather.halves_name()] = np.uint16, math.prod(plan.shapes[gather.table])
    for node in plan.convolutions:
        choice = choices.get(node.name, Algorithm())
        expected |= packed_arrays(node, choice, plan.shapes[node.weights], panel)
    return expected


def _check_algorithms(plan: Plan, choices: Mapping[str, Algorithm]) -> None:
    for node in plan.nodes:
        if node.name in choices and choices[node.name].algorithm not in node.algorithms:
            raise ArtifactError(f"{node.name}: no algorithm {choices[node.name].algorithm!r}")


@dataclass(frozen=True)
class Addresses:
    """Where everything is, as kernels are told it: what `Node.arguments` is made of.

    Attributes
    ----------
    plan : Plan
    batch : int
        Images.
    inputs : mapping of str to int
        Addresses of the inputs and the output of the network.
    arena : int
        Address of the arena.
    weights : mapping of str to int
        Addresses of packed weights.
    packed : mapping of str to array
        What lies there.
    """

    plan: Plan
    batch: int
    inputs: Mapping[str, int]
    arena: int
    weights: Mapping[str, int]
    packed: Mapping[str, NDArray[Any]]

    def address(self, view: View) -> tuple[int, int]:
        """Return the address of a view, and the elements from one image to the next."""
        buffer = self.plan.buffers[view.buffer]
        image = buffer.size
        if buffer.kind == "arena":
            begin = self.arena + _FLOAT_BYTES * self.batch * buffer.offset
        elif buffer.kind == "weight":
            begin, image = self.weights[view.buffer], 0
        else:
            begin = self.inputs[view.buffer]
        item = _LABEL_BYTES if buffer.kind == "labels" else _FLOAT_BYTES
        return begin + item * view.offset, image

    def pixels(self, view: View) -> tuple[int, int, int]:
        """Return (rows of the image..., channels), whose pixels follow each other evenly."""
        channels = view.shape[-1]
        rows = view.reshape((view.numel // channels, channels))
        step = rows.strides[0] if rows is not None and rows.shape[0] > 1 else channels
        return (*self.address(view), step)

    def vector(self, view: View | None) -> tuple[int, int] | None:
        """Return `address` of a vector, if there is one."""
        return None if view is None else self.address(view)

    def heads(self, view: View) -> tuple[int, int, int, int]:
        """Return (address, elements to the next image, head, token) of (heads, tokens, C)."""
        return (*self.address(view), view.strides[0], view.strides[1])

    def strided(self, view: View) -> tuple[int, list[int]]:
        """Return the address, and the elements to the next image and along each axis."""
        begin, image = self.address(view)
        return begin, [image, *view.strides]

    def quantization(self, names: Sequence[str]) -> tuple[int, int, int, int]:
        """Return addresses of the scales that have `names`, and the number that stands for 0."""
        *scales, zero = names
        inputs, outputs, zeros = (self.weights[name] for name in scales)
        return inputs, outputs, zeros, int(self.packed[zero][0])

    def weight(self, name: str | None) -> int:
        """Return the address of a packed weight; 0 stands for none."""
        return 0 if name is None else self.weights[name]


def _observed(memory: Addresses, node: Conv, ranges: NDArray[np.float32]) -> dict[str, Any]:
    height, width, channels = node.x.shape
    return {
        "x": memory.pixels(node.x),
        "images": memory.batch,
        "pixels": height * width,
        "channels": channels,
        "low": ranges[0].ctypes.data,
        "high": ranges[1].ctypes.data,
    }
