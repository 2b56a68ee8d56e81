"""Somebody else's ONNX file in the form of fastdiff's own.

The graph stays as it is. In front of it come the nodes that give its inputs the names, types and
shapes of `export_onnx`, behind it those that do so for its output::

    x float32 (B, C, ...) ----- Cast --------------------> its x ------.
    t float32 (B,) ------------- Round, Cast, Reshape ----> its t ------|
    conditioning (B, ...) ------ Cast, Reshape -----------> its own ----+--> its output
                                                                        Cast --> output float32
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, compose, helper, inliner

from fastdiff.exporting.graph import FLOAT, Builder
from fastdiff.exporting.metadata import KEY
from fastdiff.networks.onnx_file import OnnxFile, Port

LARGE_BYTES = 1_500_000_000
"""Weights above this lie beside the file: a protocol buffer holds 2 GiB at most."""

GIVEN = "given/"
"""What the names of a given graph begin with, so that they are not those of the nodes around it."""

_ELEMENTS = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.int32: TensorProto.INT32,
    torch.int64: TensorProto.INT64,
    torch.bool: TensorProto.BOOL,
}
_NO_INPUT_INITIALIZERS = 4  # the first IR version whose weights need not be inputs as well


def rewrite(file: OnnxFile, path: Path, output_channels: int, metadata: str) -> None:
    """Write `file` to `path` with the inputs and the output of `export_onnx`.

    Parameters
    ----------
    file : OnnxFile
    path : Path
        Weights over `LARGE_BYTES` go to a file beside it, ``NAME.data``.
    output_channels : int
        C or 2C.
    metadata : str
        What the new file says of itself.
    """
    model = inliner.inline_local_functions(onnx.load(str(file.path)))
    graph = compose.add_prefix_graph(model.graph, GIVEN, inplace=True)
    builder = Builder()
    rows: int | str = file.batch or "batch"
    inputs = []
    for name, port in {"x": file.x, "t": file.t, **file.conditioning}.items():
        dtype = torch.float32 if name in {"x", "t"} else port.outside
        row_shape = () if name == "t" else port.row_shape
        _feed(builder, name, port, dtype, row_shape)
        inputs.append(helper.make_tensor_value_info(name, _ELEMENTS[dtype], [rows, *row_shape]))
    nodes = [*builder.nodes, *graph.node]
    nodes.append(helper.make_node("Cast", [GIVEN + file.output], ["output"], to=FLOAT))
    shape = [rows, output_channels, *file.sample_shape[1:]]
    rewritten = helper.make_graph(
        nodes,
        "denoiser",
        inputs,
        [helper.make_tensor_value_info("output", FLOAT, shape)],
        [*builder.initializers, *graph.initializer],
        sparse_initializer=graph.sparse_initializer,
    )
    _save(model, rewritten, path, metadata)


def _feed(
    builder: Builder, name: str, port: Port, dtype: torch.dtype, row_shape: tuple[int, ...]
) -> None:
    """Write the nodes that make the input `name`, of `dtype` and `row_shape`, what `port` takes."""
    value = builder.value(name)
    if dtype.is_floating_point and not port.dtype.is_floating_point:
        value = builder.op("Round", value)
    if port.dtype != dtype:
        value = value.cast(port.element)
    if port.shape != (-1, *row_shape):
        value = builder.op("Reshape", value, np.array(port.shape, np.int64))
    builder.rename(value, GIVEN + port.name)


def _save(model: onnx.ModelProto, graph: onnx.GraphProto, path: Path, metadata: str) -> None:
    """Write `graph` with the versions and the operator sets of `model`."""
    rewritten = helper.make_model(
        graph,
        producer_name="fastdiff",
        ir_version=max(model.ir_version, _NO_INPUT_INITIALIZERS),
        opset_imports=model.opset_import,
    )
    helper.set_model_props(rewritten, {KEY: metadata})
    large = sum(len(tensor.raw_data) for tensor in graph.initializer) > LARGE_BYTES
    onnx.save_model(rewritten, str(path), save_as_external_data=large, location=f"{path.name}.data")
