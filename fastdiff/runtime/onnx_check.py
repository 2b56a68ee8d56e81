"""Checks of an ONNX file that came from somewhere else, before an engine sees it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.helper import tensor_dtype_to_np_dtype

from fastdiff.errors import ArtifactError

_DOMAINS = {"", "ai.onnx"}


def check_onnx(path: Path, files: set[str]) -> None:
    """Refuse a model that declares more than it holds, or reaches outside its folder.

    Parameters
    ----------
    path : Path
        The model.
    files : set of str
        Names beside it that its tensors may lie in.

    Raises
    ------
    ArtifactError
        The file is no ONNX model; a tensor's declared size is not what is there; a tensor lies in
        another file; an operator is not of the standard domain.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except (DecodeError, ValueError) as error:
        raise ArtifactError(f"{path.name} is no ONNX model: {error}") from error
    graphs = [model.graph, *model.functions]
    for graph in graphs:
        for node in _nodes(graph):
            if node.domain not in _DOMAINS | {f.domain for f in model.functions}:
                raise ArtifactError(f"{path.name} uses operators of the domain {node.domain!r}")
            for attribute in node.attribute:
                for tensor in (attribute.t, *attribute.tensors):
                    _check_tensor(tensor, path, files)
        for tensor in getattr(graph, "initializer", ()):
            _check_tensor(tensor, path, files)


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
