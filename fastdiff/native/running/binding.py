"""A plan on real memory: the calls of one batch size."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.errors import ArtifactError
from fastdiff.native.nodes import Attention, Conv, Gather, GroupNorm, LayerNorm, Map
from fastdiff.native.plan import Plan
from fastdiff.native.planning.rounding import rounded_ahead
from fastdiff.native.running.packing import (
    ALGORITHMS,
    ATTENTION_ALGORITHMS,
    HALVES,
    INT8,
    TILES,
    Algorithm,
    halved,
    halves_name,
    packed_arrays,
    packed_name,
    scale_names,
    unpacked,
)
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
    memory = _Arena(plan, batch, addresses, arena, weights, packed)
    ahead = rounded_ahead(plan, choices) if ranges is None else set()
    for node in plan.nodes:
        choice = choices.get(node.name, Algorithm())
        if isinstance(node, Conv):
            if ranges is not None:
                native.observe(
                    f"input of {node.name}", **_observed(memory, node, ranges[node.name])
                )
            rounded = node.name in ahead
            native.conv(node.name, **_conv(memory, node, choice), ahead=rounded)
        elif isinstance(node, GroupNorm):
            native.group_norm(node.name, **_group_norm(memory, node))
        elif isinstance(node, LayerNorm):
            native.layer_norm(node.name, **_layer_norm(memory, node))
        elif isinstance(node, Attention):
            native.attention(node.name, **_attention(memory, node, choice))
        elif isinstance(node, Map):
            native.map(node.name, **_map(memory, node))
        else:
            native.gather(node.name, **_gather(memory, node, choice))


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
        expected[halves_name(gather)] = np.uint16, math.prod(plan.shapes[gather.table])
    for node in plan.convolutions:
        choice = choices.get(node.name, Algorithm())
        expected |= packed_arrays(node, choice, plan.shapes[node.weights], panel)
    return expected


def _check_algorithms(plan: Plan, choices: Mapping[str, Algorithm]) -> None:
    known = {
        Conv: (*ALGORITHMS, TILES, INT8),
        Attention: ATTENTION_ALGORITHMS,
        Gather: ("direct", HALVES),
    }
    for node in plan.nodes:
        if node.name in choices:
            algorithm = choices[node.name].algorithm
            if algorithm not in known.get(type(node), ()):
                raise ArtifactError(f"{node.name}: no algorithm {algorithm!r}")


@dataclass(frozen=True)
class _Arena:
    """Where everything is."""

    plan: Plan
    batch: int
    addresses: Mapping[str, int]
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
            begin = self.addresses[view.buffer]
        item = _LABEL_BYTES if buffer.kind == "labels" else _FLOAT_BYTES
        return begin + item * view.offset, image

    def pixels(self, view: View) -> tuple[int, int, int]:
        """Return (rows of the image..., channels), whose pixels follow each other evenly."""
        channels = view.shape[-1]
        rows = view.reshape((view.numel // channels, channels))
        step = rows.strides[0] if rows is not None and rows.shape[0] > 1 else channels
        return (*self.address(view), step)

    def optional_pixels(self, view: View | None) -> tuple[int, int, int] | None:
        return None if view is None else self.pixels(view)

    def optional(self, view: View | None) -> tuple[int, int] | None:
        return None if view is None else self.address(view)

    def heads(self, view: View) -> tuple[int, int, int, int]:
        return (*self.address(view), view.strides[0], view.strides[1])

    def strided(self, view: View) -> tuple[int, list[int]]:
        begin, image = self.address(view)
        return begin, [image, *view.strides]

    def quantization(self, node: Conv) -> tuple[int, int, int, int]:
        *scales, zero = scale_names(node)
        inputs, outputs, zeros = (self.weights[name] for name in scales)
        return inputs, outputs, zeros, int(self.packed[zero][0])

    def weight(self, name: str | None) -> int:
        return 0 if name is None else self.weights[name]


def _conv(memory: _Arena, node: Conv, choice: Algorithm) -> dict[str, Any]:
    height, width, channels = node.x.shape
    factor = 2 if node.upsample else 1
    return {
        "x": memory.pixels(node.x),
        "y": memory.pixels(node.y),
        "images": memory.batch,
        "size": (factor * height, factor * width),
        "channels": channels,
        "out_size": node.y.shape[:2],
        "out_channels": node.y.shape[2],
        "weights": memory.weight(packed_name(node, choice)),
        "kernel": node.kernel,
        "stride": node.stride,
        "padding": node.padding,
        "upsample": node.upsample,
        "bias": memory.weight(node.bias),
        "shift": memory.optional(node.shift),
        "activation": node.activation,
        "scale": memory.optional(node.scale),
        "residual": memory.optional_pixels(node.residual),
        "algorithm": choice.algorithm,
        "blocks": choice.blocks,
        "quantization": memory.quantization(node) if choice.algorithm == INT8 else None,
    }


def _observed(memory: _Arena, node: Conv, ranges: NDArray[np.float32]) -> dict[str, Any]:
    height, width, channels = node.x.shape
    return {
        "x": memory.pixels(node.x),
        "images": memory.batch,
        "pixels": height * width,
        "channels": channels,
        "low": ranges[0].ctypes.data,
        "high": ranges[1].ctypes.data,
    }


def _norm(memory: _Arena, node: GroupNorm | LayerNorm) -> dict[str, Any]:
    pixels, channels = node.x.shape
    return {
        "x": memory.pixels(node.x),
        "y": memory.pixels(node.y),
        "images": memory.batch,
        "pixels": pixels,
        "channels": channels,
        "gamma": memory.weight(node.gamma),
        "beta": memory.weight(node.beta),
        "epsilon": node.epsilon,
    }


def _group_norm(memory: _Arena, node: GroupNorm) -> dict[str, Any]:
    return {**_norm(memory, node), "groups": node.groups, "activation": node.activation}


def _layer_norm(memory: _Arena, node: LayerNorm) -> dict[str, Any]:
    return {
        **_norm(memory, node),
        "scale": memory.optional(node.scale),
        "shift": memory.optional(node.shift),
        "centred": node.centred,
    }


def _attention(memory: _Arena, node: Attention, choice: Algorithm) -> dict[str, Any]:
    heads, queries, depth = node.q.shape
    return {
        "q": memory.heads(node.q),
        "k": memory.heads(node.k),
        "v": memory.heads(node.v),
        "y": memory.heads(node.y),
        "images": memory.batch,
        "heads": heads,
        "queries": queries,
        "keys": node.k.shape[1],
        "depth": depth,
        "value_depth": node.v.shape[2],
        "scale": node.scale,
        "algorithm": choice.algorithm,
    }


def _map(memory: _Arena, node: Map) -> dict[str, Any]:
    return {
        "shape": [memory.batch, *node.y.shape],
        "inputs": [memory.strided(view) for view in node.inputs],
        "output": memory.strided(node.y),
        "program": node.program,
    }


def _gather(memory: _Arena, node: Gather, choice: Algorithm) -> dict[str, Any]:
    rows, channels = memory.plan.shapes[node.table]
    halves = choice.algorithm == HALVES
    return {
        "labels": memory.address(node.labels),
        "table": memory.weight(halves_name(node) if halves else node.table),
        "rows": rows,
        "channels": channels,
        "y": memory.address(node.y),
        "images": memory.batch,
        "halves": halves,
    }
