"""Checks of an ONNX file that came from somewhere else, before a backend sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.helper import tensor_dtype_to_np_dtype

from fastdiff.errors import ArtifactError

# onnxruntime brings the operators of com.microsoft, which its own optimizer writes into files.
_DOMAINS = {"", "ai.onnx", "com.microsoft"}
_OPAQUE = "EPContext"  # runs what some backend compiled, native code


def check_onnx(path: Path, files: set[str]) -> set[str]:
    """Refuse a model that declares more than it holds, or reaches outside its folder.

    Parameters
    ----------
    path : Path
        The model.
    files : set of str
        Names beside it that its tensors may lie in.

    Returns
    -------
    set of str
        Those of `files` that tensors lie in.

    Raises
    ------
    ArtifactError
        The file is no ONNX model; a tensor's declared size is not what is there; a tensor lies in
        another file; an operator is not one of the standard's or onnxruntime's.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ArtifactError(f"{path.name} is no ONNX model: {error}") from error
    domains = _DOMAINS | {function.domain for function in model.functions}
    used = set()
    for graph in (model.graph, *model.functions):
        tensors = list(getattr(graph, "initializer", ()))
        for node in _nodes(graph):
            if node.domain not in domains or node.op_type == _OPAQUE:
                raise ArtifactError(
                    f"{path.name} uses operators of the domain {node.domain!r}: {node.op_type}; "
                    "export it with standard operators"
                )
            for attribute in node.attribute:
                tensors += [attribute.t, *attribute.tensors]
                for inner in (attribute.g, *attribute.graphs):
                    tensors += inner.initializer
        for tensor in tensors:
            _check_tensor(tensor, path, files)
        external = filter(uses_external_data, tensors)
        used |= {str(ExternalDataInfo(tensor).location) for tensor in external}
    return used


def _nodes(graph: onnx.GraphProto | onnx.FunctionProto) -> Iterator[onnx.NodeProto]:
    """Every node of a graph and of the graphs inside it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _check_tensor(tensor: onnx.TensorProto, path: Path, files: set[str]) -> None:
    if not tensor.dims and not tensor.ByteSize():
        return
    size = math.prod(tensor.dims) * tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    if min(tensor.dims, default=0) < 0:
        raise ArtifactError(
            f"{path.name}: tensor {tensor.name!r} has dimensions {list(tensor.dims)}"
        )
    if uses_external_data(tensor):
        info = ExternalDataInfo(tensor)
        if info.location not in files:
            raise ArtifactError(
                f"{path.name}: a tensor lies in {info.location!r}, outside the file"
            )
        end = (info.offset or 0) + (info.length if info.length is not None else size)
        if (info.offset or 0) < 0 or end > (path.parent / info.location).stat().st_size:
            raise ArtifactError(f"{path.name}: tensor {tensor.name!r} lies beyond {info.location}")
        held = info.length if info.length is not None else size
    elif tensor.raw_data:
        held = len(tensor.raw_data)
    else:
        return  # typed fields: the checker compares their count with the dimensions
    if held != size:
        raise ArtifactError(
            f"{path.name}: tensor {tensor.name!r} declares {size} bytes and holds {held}"
        )
