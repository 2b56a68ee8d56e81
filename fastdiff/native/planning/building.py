"""From a network to its plan."""

from __future__ import annotations

import torch
from torch import nn

from fastdiff.native.onnx_module import read_onnx_module
from fastdiff.native.plan import Buffer, Plan
from fastdiff.native.planning.fusion import fuse
from fastdiff.native.planning.graph import Graph, remove_dead
from fastdiff.native.planning.maps import compact_maps, merge_maps
from fastdiff.native.planning.memory import assign, lifetimes, live_peak, reuse_inputs
from fastdiff.native.planning.placement import join_linears, place_copies
from fastdiff.native.planning.rounding import delay_norms
from fastdiff.native.reading.program import read_graph
from fastdiff.networks import Network
from fastdiff.networks.precision import AtPrecision, trace


def make_plan(program: torch.export.ExportedProgram, network: Network) -> Plan:
    """Return the plan of a network in float32.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        Of the network's module, as `fastdiff.networks.precision.trace` returns it.
    network : Network

    Raises
    ------
    Unavailable
        It has an operator without a kernel, which is named.
    """
    return build_plan(read_graph(program, network))


def plan_network(network: Network) -> Plan:
    """Return `make_plan` of the program that torch exports.

    Raises
    ------
    Unavailable
        The network has neither module nor file, torch cannot export it, or an operator has no
        kernel.
    """
    if network.module is None and network.onnx is not None:
        module: nn.Module = read_onnx_module(network.onnx)
    else:
        module = network.require_module()
    exact = AtPrecision(module, torch.float32)
    return make_plan(trace(exact, network, torch.float32), network)


def build_plan(graph: Graph) -> Plan:
    """Return `graph`, which is changed, as a plan."""
    remove_dead(graph)
    fuse(graph)
    join_linears(graph)
    merge_maps(graph)
    delay_norms(graph)
    place_copies(graph)
    compact_maps(graph)
    reuse_inputs(graph)
    return assign_memory(graph)


def assign_memory(graph: Graph) -> Plan:
    """Return the plan of a graph whose nodes are final."""
    values = graph.values.items()
    found = lifetimes(graph.nodes, {name: v.numel for name, v in values if v.kind == "value"})
    offsets, floats = assign(found)
    buffers = {
        name: Buffer("arena", found[name].floats, offsets[name])
        if value.kind == "value"
        else Buffer(value.kind, value.numel)
        for name, value in graph.values.items()
        if value.kind != "value" or name in found
    }
    used = {name for node in graph.nodes for name in node.weights_read()}
    used |= {view.buffer for node in graph.nodes for view in node.reads()}
    weights = {name: array for name, array in graph.weights.items() if name in used}
    shapes = {name: tuple(array.shape) for name, array in weights.items()}
    return Plan(tuple(graph.nodes), buffers, shapes, floats, live_peak(found), weights)
