"""Denoisers whose rows depend on each other, as such models are met."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from fastdiff.compiler import describe
from fastdiff.networks import Network

SAMPLE_SHAPE = (1, 4, 6)


class BatchStatistics(nn.Module):
    """A batch norm that has kept no statistics, so it takes those of the batch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8, track_running_stats=False)
        self.outer = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        hidden = self.norm(self.inner(x)) + (t / 1000)[:, None, None, None]
        return self.outer(torch.tanh(hidden))


class SoftmaxOverBatch(nn.Module):
    """An attention whose axes were confused: what a row gets of itself depends on the others."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x + torch.softmax(x, 0) * torch.cos(t / 1000)[:, None, None, None]


class Counted(nn.Module):
    """A loss's mean over the rows that was left in."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x / x.shape[0]


class FirstTime(nn.Module):
    """Takes the time of the first row for that of all, as training scripts do."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x * torch.cos(t[0] / 500)


MODULES: dict[str, type[nn.Module]] = {
    "batch statistics": BatchStatistics,
    "softmax over the batch": SoftmaxOverBatch,
    "count of the rows": Counted,
    "the first row's time": FirstTime,
}


def write_dynamic_int8(path: Path, batch: str | int = "N") -> Path:
    """Write a matrix product over all pixels in 8 bits, of one scale for all rows of a call."""
    pixels = int(np.prod(SAMPLE_SHAPE))
    weight = np.random.default_rng(0).integers(-40, 40, (pixels, pixels), dtype=np.int8)
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("DynamicQuantizeLinear", ["flat"], ["whole", "scale", "zero"]),
        helper.make_node("MatMulInteger", ["whole", "weight", "zero"], ["product"]),
        helper.make_node("Cast", ["product"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["scale", "step"], ["both"]),
        helper.make_node("Mul", ["floats", "both"], ["scaled"]),
        helper.make_node("Reshape", ["t", "column"], ["times"]),
        helper.make_node("Mul", ["times", "rate"], ["slow"]),
        helper.make_node("Add", ["scaled", "slow"], ["sum"]),
        helper.make_node("Reshape", ["sum", "shape"], ["output"]),
    ]
    constants = {
        "weight": weight,
        "step": np.float32(0.003),
        "rate": np.float32(1e-4),
        "column": np.array([-1, 1]),
        "shape": np.array([-1, *SAMPLE_SHAPE]),
    }
    shape = [batch, *SAMPLE_SHAPE]
    graph = helper.make_graph(
        nodes,
        "int8",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, shape),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, [batch]),
        ],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.save(model, path)
    return path


def coupled_network(name: str, folder: Path) -> Network:
    """Return one of `MODULES`, or ``"dynamic int8"`` and ``"dynamic int8 by threes"``."""
    if name in MODULES:
        network = Network(MODULES[name](), SAMPLE_SHAPE, name=name)
    else:
        path = write_dynamic_int8(folder / "int8.onnx", 3 if name.endswith("threes") else "N")
        network, _ = describe(path)
    return network
