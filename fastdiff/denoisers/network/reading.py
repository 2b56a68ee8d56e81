"""From the program of ``torch.export`` to a graph of kernel calls.

The program is run abstractly. Each of its tensors is a strided view of a value whose layout its
producer has chosen: transposing, splitting and joining heads is arithmetic on strides, done here
once. What depends on no input is computed here by torch.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves, tree_map

from fastdiff.denoisers.network import arithmetic, layers, shaping  # noqa: F401  register operators
from fastdiff.denoisers.network.graph import OUTPUT, Graph, Value
from fastdiff.denoisers.network.nodes import Map
from fastdiff.denoisers.network.reader import Reader, short_name
from fastdiff.denoisers.network.results import OPERATORS, Doubled, Padded, Rows
from fastdiff.denoisers.network.shaping import materialised
from fastdiff.denoisers.network.views import View
from fastdiff.errors import Unavailable
from fastdiff.exporting import Network

_FILLED = ("aten.ones.default", "aten.zeros.default", "aten.full.default")  # alike for all images
_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._check")


def read_graph(program: torch.export.ExportedProgram, network: Network) -> Graph:
    """Return the graph of a network.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        Of ``module(x, t, conditioning)`` with an open batch axis, as
        `fastdiff.denoisers.precision.trace` returns it.
    network : Network

    Returns
    -------
    Graph
        Its inputs are the values ``x``, ``t`` and those that `network.conditioning` names; its
        output, as torch lays it out, is the value ``output``.

    Raises
    ------
    Unavailable
        The program has an operator that no kernel computes; the message names it.
    """
    if network.batch is not None:
        raise Unavailable(
            f"the native engine needs an open batch axis; {network.name} takes {network.batch} rows"
        )
    reader = Reader()
    env: dict[fx.Node, Any] = {}
    inputs = iter(["x", "t", *network.conditioning])
    kinds = {spec.arg.name: spec for spec in program.graph_signature.input_specs}
    for node in program.graph.nodes:
        reader.node = node
        if node.op == "placeholder":
            spec = kinds[node.name]
            if spec.kind is InputKind.USER_INPUT:
                env[node] = _input(reader, next(inputs))
            else:
                env[node] = _tensor(reader, program, str(spec.target))
        elif node.op == "call_function":
            env[node] = _call(reader, node, env)
        elif node.op == "output":
            _finish(reader, env[tree_leaves(node.args)[0]])
        else:
            raise reader.refuse(f"a {node.op} is no operator")
    return reader.graph


def _input(reader: Reader, name: str) -> View:
    shape, lead = reader.image_shape()
    dtype = reader.node.meta["val"].dtype
    if not lead or dtype not in {torch.float32, torch.int64}:
        raise reader.refuse(f"input {name}: expected float32 or int64 labels, got {dtype}")
    view = View.of(reader.unique(name), shape)
    kind = "input" if dtype == torch.float32 else "labels"
    reader.graph.values[view.buffer] = Value(1, view.numel, kind)
    return view


def _tensor(reader: Reader, program: torch.export.ExportedProgram, name: str) -> Tensor:
    """Return a parameter, buffer or constant of the program."""
    known: Mapping[str, Any] = {**program.constants, **program.state_dict}
    tensor: Tensor = known[name].detach()
    reader.name_weight(tensor, short_name(name))
    return tensor


def _call(reader: Reader, node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
    """Read one operator, or compute it if it depends on no input."""
    name = str(node.target)
    if name.startswith(_CHECKS):
        return None
    args: Any
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda arg: env[arg])
    if isinstance(node.meta["val"], torch.SymInt):
        return Rows(1)
    if getattr(node.target, "__name__", "") == "getitem":
        return args[0][args[1]]
    if not any(isinstance(leaf, (View, Padded, Doubled)) for leaf in tree_leaves((args, kwargs))):
        return _constant(reader, node, args, kwargs)
    if name not in OPERATORS:
        raise reader.refuse("it has no kernel")
    _check_types(reader, node)
    if name.split(".")[1].endswith("_"):
        _check_mutation(reader, args[0], env)
    if name != "aten.conv2d.default":
        args, kwargs = tree_map(lambda arg: materialised(reader, arg), (args, kwargs))
    read = OPERATORS[name]
    try:
        inspect.signature(read).bind(reader, *args, **kwargs)
    except TypeError as error:
        raise reader.refuse(str(error)) from error
    return read(reader, *args, **kwargs)


def _constant(reader: Reader, node: fx.Node, args: Any, kwargs: Any) -> Any:
    """Let torch compute what no input changes, for a batch of one image.

    What counts the images, or their places in the batch, is refused.
    """
    leaves = tree_leaves((args, kwargs))
    creates = not any(isinstance(leaf, Tensor) for leaf in leaves)
    counts = creates and any(isinstance(leaf, Rows) for leaf in leaves)
    from_batch = any(_has_batch(argument) for argument in node.all_input_nodes)
    if (counts and str(node.target) not in _FILLED) or (from_batch and not _has_batch(node)):
        raise reader.refuse("its result depends on the size of the batch")
    with torch.no_grad():
        return node.target(*args, **kwargs)  # type: ignore[operator]


def _has_batch(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and any(not isinstance(size, int) for size in value.shape)


def _check_mutation(reader: Reader, changed: object, env: Mapping[fx.Node, Any]) -> None:
    """Refuse an operator that writes over what others read: here every value stays as it is."""
    views = [leaf for leaf in tree_leaves(list(env.values())) if isinstance(leaf, View)]
    buffer = changed.buffer if isinstance(changed, View) else None
    alone = sum(view.buffer == buffer for view in views) == 1
    if buffer is None or not alone or len(reader.node.all_input_nodes[0].users) != 1:
        raise reader.refuse("it changes in place what others may read")


def _check_types(reader: Reader, node: fx.Node) -> None:
    """Refuse what is neither float32 nor a view of int64 labels."""
    for value in tree_leaves(node.meta["val"]):
        if isinstance(value, Tensor) and value.dtype not in {torch.float32, torch.int64}:
            raise reader.refuse(f"its output is {value.dtype}, kernels compute in float32")


def _finish(reader: Reader, given: Any) -> None:
    """Copy the result to the output, in the order of its axes."""
    result = materialised(reader, given)
    if not isinstance(result, View):
        raise reader.refuse("the output does not depend on the inputs")
    y = View.of(OUTPUT, result.shape)
    reader.graph.values[OUTPUT] = Value(1, y.numel, "output")
    reader.graph.nodes.append(Map(OUTPUT, y, (result,)))
