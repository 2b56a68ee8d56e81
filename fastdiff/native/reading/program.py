"""From the program of ``torch.export`` to a graph of kernel calls.

The program is run abstractly. Each of its tensors is a strided view of a value whose layout its
producer has chosen: transposing, splitting and joining heads is arithmetic on strides, done here
once. What depends on no input is computed here by torch.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_leaves, tree_map

from fastdiff.errors import Unavailable
from fastdiff.native.nodes import Map
from fastdiff.native.planning.graph import OUTPUT, Graph, Value
from fastdiff.native.reading import (  # noqa: F401  register operators
    arithmetic,
    convolutions,
    products,
    shaping,
)
from fastdiff.native.reading.constants import compute_constant, empty, in_place, is_empty
from fastdiff.native.reading.reader import Reader, short_name
from fastdiff.native.reading.results import (
    DELAYED,
    MOVABLE,
    OPERATORS,
    SIZED,
    Doubled,
    Moved,
    Padded,
    Rows,
)
from fastdiff.native.reading.shaping import materialised
from fastdiff.native.views import View
from fastdiff.networks import Network

_KINDS = (View, Tensor, Tensor | None)  # annotations that are looked at
_CHECKS = ("aten._assert", "aten.sym_constrain", "aten._check")


def read_graph(program: torch.export.ExportedProgram, network: Network) -> Graph:
    """Return the graph of a network.

    Parameters
    ----------
    program : torch.export.ExportedProgram
        Of ``module(x, t, conditioning)`` with an open batch axis, as
        `fastdiff.networks.precision.trace` returns it.
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
            f"the native backend needs an open batch axis; {network.name} takes "
            f"{network.batch} rows"
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
    name, value = str(node.target), node.meta.get("val")
    if name.startswith(_CHECKS):
        return None
    args: Any
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda arg: env[arg])
    if isinstance(value, torch.SymInt):
        return Rows(value.node.expr)
    if getattr(node.target, "__name__", "") == "getitem":
        return args[0][args[1]]
    if is_empty(value):
        return empty(value)
    leaves = tree_leaves((args, kwargs))
    if not any(isinstance(leaf, (View, Padded, Doubled, Moved)) for leaf in leaves):
        return compute_constant(reader, args, kwargs, env)
    if name not in OPERATORS:
        raise reader.refuse("it has no kernel")
    if name not in SIZED and any(isinstance(leaf, Rows) for leaf in leaves):
        raise reader.refuse("it computes with the size of the batch")
    _check_types(reader, node)
    if in_place(node.target):
        _check_mutation(reader, args[0], env)
    if any(isinstance(leaf, Moved) for leaf in leaves) and name not in MOVABLE:
        raise reader.refuse("it reads a tensor whose batch is not the first axis")
    if name not in DELAYED:
        args, kwargs = tree_map(lambda arg: materialised(reader, arg), (args, kwargs))
    read = OPERATORS[name]
    _check_arguments(reader, read, args, kwargs)
    return _checked(reader, read(reader, *args, **kwargs), value)


@functools.cache
def _signature(read: Callable[..., object]) -> inspect.Signature:
    return inspect.signature(read, eval_str=True, locals={"Reader": Reader})


def _check_arguments(reader: Reader, read: Callable[..., object], args: Any, kwargs: Any) -> None:
    """Refuse an argument that `read` has no parameter for, or whose kind it does not read."""
    signature = _signature(read)
    try:
        given = signature.bind(reader, *args, **kwargs).arguments
    except TypeError as error:
        raise reader.refuse(str(error)) from error
    for name, value in given.items():
        kind = signature.parameters[name].annotation
        if kind in _KINDS and not isinstance(value, kind):
            raise reader.refuse(f"its {name} is a {type(value).__name__}, expected {kind}")


def _checked(reader: Reader, result: Any, value: Any) -> Any:
    """Return a result whose shapes are those that torch says, its empty parts as constants."""
    if isinstance(value, (tuple, list)):
        return tuple(_checked(reader, *part) for part in zip(result, value, strict=True))
    if is_empty(value):
        return empty(value)
    if isinstance(result, Tensor) and tuple(result.shape) == tuple(value.shape):
        return result
    if isinstance(result, Moved):
        sizes = list(value.shape)
        del sizes[result.batch]
        if tuple(sizes) != result.view.shape:
            raise reader.refuse(f"it makes {sizes} of each image, read as {result.view.shape}")
        return result
    expected, _ = reader.shape_of(value)
    if result.shape != expected:
        raise reader.refuse(f"it makes {expected} of each image, read as {result.shape}")
    return result


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
    reader.append(Map(OUTPUT, y, (result,)))
