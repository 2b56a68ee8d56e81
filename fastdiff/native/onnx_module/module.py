"""The graph of an ONNX file as a module whose operators are submodules."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, inliner, numpy_helper
from torch import Tensor, nn

from fastdiff.errors import Unavailable
from fastdiff.exporting.rewriting import GIVEN
from fastdiff.native.onnx_module import arithmetic, layers, shaping  # noqa: F401  register operators
from fastdiff.native.onnx_module.deferred import Deferred
from fastdiff.native.onnx_module.folding import FOLDING, Array, Unreadable, fold, folds
from fastdiff.native.onnx_module.values import OPERATORS, Value, tensor

_CONSTANT = "Constant"
_STANDARD = ("", "ai.onnx")
_MIN_OPSET = 13  # axes and sizes are inputs from there on, and Softmax is along one axis


def read_onnx_module(path: Path) -> OnnxModule:
    """Return the network in an ONNX file as a module, in float32.

    Parameters
    ----------
    path : Path
        As `fastdiff.exporting.export_onnx` writes it, of anybody's model; it has been checked
        (`fastdiff.storing.onnx_check`). Its weights may lie in files beside it.

    Raises
    ------
    Unavailable
        It has an operator that is not known here; the message names it. Of what it is asked for,
        some is only seen when the module runs.
    """
    return OnnxModule(inliner.inline_local_functions(onnx.load(str(path))), path.name)


class OnnxModule(nn.Module):
    """Evaluates a graph with torch: ``module(x, t, **conditioning)``.

    Parameters
    ----------
    model : onnx.ModelProto
        Without functions.
    name : str
        For messages.
    """

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        super().__init__()
        opset = max((e.version for e in model.opset_import if e.domain in _STANDARD), default=0)
        if opset < _MIN_OPSET:
            raise Unavailable(
                f"{name} has opset {opset}, and can be read from {_MIN_OPSET} on; "
                "another backend can run it"
            )
        self.name, graph = name, model.graph
        self._constants: dict[str, Array] = {
            weight.name: numpy_helper.to_array(weight) for weight in graph.initializer
        }
        self._output = graph.output[0].name
        self._weights: dict[str, nn.Parameter] = {}
        calls = [self._call(node) for node in graph.node if not self._fold(node)]
        used = {self._output, *(name for call in calls for name in call.values)}
        self._constants = {key: self._constants[key] for key in used & set(self._constants)}
        self._calls = tuple(calls)  # in order; as submodules they have names
        for call in calls:
            _attach(self, call.path, call)

    def forward(self, x: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        """Map (B, C, H, W) and (B,) to the output of the graph."""
        values: dict[str, Value] = {**self._constants, "x": x, "t": t, **conditioning}
        for call in self._calls:
            values.update(zip(call.writes, call(values), strict=False))
        return tensor(values[self._output])

    def _fold(self, node: onnx.NodeProto) -> bool:
        """Compute a node that depends on constants alone."""
        there = node.op_type in OPERATORS or node.op_type in FOLDING or node.op_type == _CONSTANT
        if not there or node.domain not in _STANDARD:
            raise self._refuse(node, "it is not known here")
        known = all(name in self._constants for name in node.input if name)
        attributes = _attributes(node)
        if node.op_type == _CONSTANT:
            (value,) = attributes.values()
            result = np.asarray(value, None if isinstance(value, np.ndarray) else _kind(value))
        elif known and node.op_type in FOLDING:
            inputs = [self._constants[name] if name else None for name in node.input]
            try:
                result = fold(node.op_type, inputs, attributes)
            except Unreadable as error:
                raise self._refuse(node, str(error)) from error
        else:
            return False
        self._constants[node.output[0]] = result
        return True

    def _call(self, node: onnx.NodeProto) -> _Call:
        weights = {}
        for name in node.input:
            array = self._constants.get(name)
            if array is not None and _is_weight(node, array):
                if name not in self._weights:
                    values = torch.from_numpy(np.array(array, np.float32))
                    self._weights[name] = nn.Parameter(values, requires_grad=False)
                weights[name] = self._weights[name]
        return _Call(node, self.name, weights)

    def _refuse(self, node: onnx.NodeProto, reason: str) -> Unavailable:
        return _refusal(node.op_type, node.name, self.name, reason)


class _Call(nn.Module):
    """One operator, which reads and writes values by their names."""

    def __init__(
        self, node: onnx.NodeProto, file: str, weights: Mapping[str, nn.Parameter]
    ) -> None:
        super().__init__()
        self.reads, self.writes = tuple(node.input), tuple(node.output)
        self.operator, self.attributes = node.op_type, _attributes(node)
        self.label, self.file = node.name, file
        stems = [name.rpartition(".")[0] for name in weights]
        path = next(filter(None, stems), node.name or node.output[0])
        self.path = path.removeprefix(GIVEN)
        self._named: dict[str, str] = {}
        for name, weight in weights.items():
            stem, _, leaf = name.rpartition(".")
            self._named[name] = _free(self, _plain(leaf) if stem else "weight")
            self.register_parameter(self._named[name], weight)
        # What is a weight here may be looked at elsewhere: the exporter merges equal ones.
        self.values = tuple(name for name in self.reads if name not in self._named)

    def forward(self, values: Mapping[str, Value] | Deferred) -> Any:
        """Return what the operator writes, or compute what it has deferred."""
        if isinstance(values, Deferred):
            return values.compute()
        inputs = [self._input(name, values) for name in self.reads]
        try:
            if folds(self.operator, inputs):
                return (fold(self.operator, inputs, self.attributes),)
            if self.operator not in OPERATORS:
                raise Unreadable("it is known for constants alone")
            written = OPERATORS[self.operator](*inputs, **self.attributes)
        except (Unreadable, TypeError, ValueError, IndexError) as error:
            raise self._refusal(str(error)) from error
        if isinstance(written, Deferred) and written.within is None:
            written = replace(written, within=self)
        return written if isinstance(written, tuple) else (written,)

    def _input(self, name: str, values: Mapping[str, Value]) -> Value:
        if name in self._named:
            weight: Value = getattr(self, self._named[name])
            return weight
        return values[name] if name else None

    def _refusal(self, reason: str) -> Unavailable:
        return _refusal(self.operator, self.label, self.file, reason)


def _refusal(operator: str, node: str, file: str, reason: str) -> Unavailable:
    return Unavailable(
        f"the operator {operator}{f' ({node})' if node else ''} of {file} cannot be read: "
        f"{reason}; another backend can run it"
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    """Return the attributes that are not what they are by default; a tensor as an array."""
    known = onnx.defs.get_schema(node.op_type, node.domain).attributes
    values = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        usual = known[attribute.name].default_value if attribute.name in known else None
        if usual is None or not usual.name or helper.get_attribute_value(usual) != value:
            tensor = isinstance(value, onnx.TensorProto)
            values[attribute.name] = numpy_helper.to_array(value) if tensor else value
    return values


def _is_weight(node: onnx.NodeProto, array: Array) -> bool:
    """Whether a constant is a parameter, and no option or number that is looked at."""
    looked_at = node.op_type == "Resize" or (
        node.op_type == "InstanceNormalization" and len(np.unique(array)) == 1
    )
    floating = array.dtype.kind in "fV"  # V: bfloat16
    return floating and array.size > 1 and not looked_at


def _kind(value: float | int | Sequence[float] | Sequence[int]) -> type:
    first = value if isinstance(value, (int, float)) else next(iter(value), 0)
    return np.float32 if isinstance(first, float) else np.int64


def _plain(name: str) -> str:
    """Return a name that a module may have."""
    return re.sub(r"\W+", "_", name).strip("_") or "part"


def _attach(root: nn.Module, path: str, module: nn.Module) -> None:
    """Add a module under a dotted path, numbered if it is taken."""
    *parents, name = (_plain(part) for part in path.replace("/", ".").strip(".").split("."))
    for parent in parents:
        if not isinstance(getattr(root, parent, None), nn.Module):
            parent = _free(root, parent)
            root.add_module(parent, nn.Module())
        root = getattr(root, parent)
    root.add_module(_free(root, name), module)


def _free(root: nn.Module, name: str) -> str:
    taken: Iterable[str] = dir(root)
    number = 2
    wanted = name
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    return name
