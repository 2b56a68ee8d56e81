"""Small ONNX denoisers as other exporters write them, and what they answer in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SAMPLE_SHAPE = (2, 3, 5)
WEIGHT = np.linspace(-0.5, 0.5, 30, dtype=np.float32).reshape(1, *SAMPLE_SHAPE)


def write_denoiser(
    path: Path,
    *,
    x=TensorProto.FLOAT,
    t=TensorProto.FLOAT,
    batch: str | int = "N",
    t_shape: tuple[str | int, ...] = ("N",),
    names: tuple[str, str] = ("latent", "timestep"),
    scale: str = "my_scalar",
    scale_shape: tuple[str | int, ...] = ("N",),
    channels: int = 2,
    size: tuple[str | int, ...] = SAMPLE_SHAPE[1:],
    opset: int = 18,
) -> Path:
    """Write ``(weight + x / (1 + x x + 0.01 t)) * scale``; of 4 channels, twice that side by side.

    x is floats of type `x`, t numbers of type `t`, scale float32.
    """
    nodes: list[onnx.NodeProto] = []

    def op(kind, inputs, output, **attributes):
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))

    op("Cast", [names[0]], "x_float", to=TensorProto.FLOAT)
    op("Cast", [names[1]], "t_float", to=TensorProto.FLOAT)
    op("Reshape", ["t_float", "per_row"], "t_rows")
    op("Mul", ["t_rows", "rate"], "t_slow")
    op("Mul", ["x_float", "x_float"], "squared")
    op("Add", ["squared", "one"], "above_one")
    op("Add", ["above_one", "t_slow"], "below")
    op("Div", ["x_float", "below"], "ratio")
    op("Add", ["ratio", "weight"], "sum")
    op("Reshape", [scale, "per_row"], "scale_rows")
    op("Mul", ["sum", "scale_rows"], "scaled")
    op("Concat", ["scaled"] * (channels // 2), "output", axis=1)  # a name that fastdiff uses
    op("Cast", ["output"], "prediction", to=x)
    inputs = [
        helper.make_tensor_value_info(names[0], x, [batch, 2, *size]),
        helper.make_tensor_value_info(names[1], t, t_shape),
        helper.make_tensor_value_info(scale, TensorProto.FLOAT, scale_shape),
    ]
    constants = {
        "per_row": np.array([-1, 1, 1, 1]),
        "rate": np.float32(0.01),
        "one": np.float32(1),
        "weight": WEIGHT,
    }
    graph = helper.make_graph(
        nodes,
        "theirs",
        inputs,
        [helper.make_tensor_value_info("prediction", x, [batch, channels, *size])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, path)
    return path


def answer(x, t, scale):
    """Compute the prediction in float64; t and scale are numbers or (B,)."""
    t, scale = (np.reshape(value, (-1, 1, 1, 1)) for value in (t, scale))
    return (WEIGHT.astype(np.float64) + x / (1 + x * x + 0.01 * t)) * scale
