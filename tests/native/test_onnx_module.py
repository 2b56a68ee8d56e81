"""ONNX files as torch modules: each operator against onnxruntime, chains as one call of torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_cases import CASES, SHAPE, Case, ints, normal, scalar

from fastdiff.errors import Unavailable
from fastdiff.native.onnx_module import OnnxModule, read_onnx_module
from fastdiff.networks import Network
from fastdiff.networks.precision import AtPrecision, trace


def inputs(rows: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(rows)
    x = rng.standard_normal((rows, *SHAPE)).astype(np.float32)
    return {"x": x, "t": np.arange(rows, dtype=np.float32)}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_an_operator_is_what_onnxruntime_makes_of_it(case: Case) -> None:
    model = case.model()
    module = OnnxModule(model, "case.onnx")
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for rows in (1, 3):
        feed = inputs(rows)
        (expected,) = session.run(None, feed)
        got = module(**{name: torch.from_numpy(array) for name, array in feed.items()})
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=case.atol)


MOVES = {
    "view", "reshape", "permute", "transpose", "clone", "unsqueeze", "squeeze", "expand", "t",
    "contiguous", "sym_size", "_unsafe_view", "alias", "detach", "flatten", "to",
    "_assert_tensor_metadata",
}  # fmt: skip


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_torch_exports_it_with_an_open_batch(case: Case) -> None:
    module = OnnxModule(case.model(), "case.onnx")
    network = Network(module=module, sample_shape=SHAPE, output_channels=4)
    program = trace(AtPrecision(module, torch.float32), network, torch.float32)
    called = {str(n.target).split(".")[1] for n in program.graph.nodes if n.op == "call_function"
              and str(n.target).startswith("aten.")}  # fmt: skip
    if case.calls is not None:
        assert called - MOVES == case.calls


def test_operators_are_named_like_their_weights(tmp_path: Path) -> None:
    name = "encoder.0.conv.weight"
    model = Case("y = Conv (x, w) output = Conv (y, w)").model()
    for node in model.graph.node:
        node.input[1] = name
    model.graph.initializer.append(numpy_helper.from_array(normal(4, 4, 1, 1), name))
    onnx.save(model, tmp_path / "m.onnx")
    module = read_onnx_module(tmp_path / "m.onnx")
    assert [own for own, _ in module.named_parameters()] == [name]  # shared
    assert {"encoder.0.conv", "encoder.0.conv_2"} <= {own for own, _ in module.named_modules()}


def test_weights_of_one_name_are_told_apart() -> None:
    """A bias may be called a weight too."""
    module = Case("flat = Flatten (x) y = Gemm (flat, w, v) output = Reshape (y, s)",
                  {"w": normal(144, 8), "v": normal(8), "s": ints(0, 2, 2, 2)}).model()  # fmt: skip
    for node in module.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = {"w": "one.weight", "v": "other.weight"}.get(name, name)
    for tensor in module.graph.initializer:
        tensor.name = {"w": "one.weight", "v": "other.weight"}.get(tensor.name, tensor.name)
    feed = inputs(2)
    session = onnxruntime.InferenceSession(
        module.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    got = OnnxModule(module, "m")(**{name: torch.from_numpy(a) for name, a in feed.items()})
    np.testing.assert_allclose(got, session.run(None, feed)[0], rtol=1e-4, atol=1e-5)


REFUSED = {
    "an unknown operator": (Case("output = LpNormalization (x)"), "LpNormalization"),
    "somebody's operator": (Case("output = com.microsoft.QuickGelu (x)"), "QuickGelu"),
    "an old opset": (Case("output = Softmax (x)", opset=12), "opset 12, and can be read from 13"),
    "an option": (Case('output = Resize <mode = "linear"> (x, , scales)',
                       {"scales": np.array([1, 1, 2, 2], np.float32)}), "linear"),
    "another size than twice the same": (
        Case('output = Resize <mode = "nearest"> (x, , scales)',
             {"scales": np.array([1, 1, 3, 3], np.float32)}), "it resizes by"),
    "a scale near two": (
        Case('output = Resize <mode = "nearest"> (x, , scales)',
             {"scales": np.array([1, 1, 2.1, 2.1], np.float32)}), "it resizes by"),
    "more channels": (
        Case('output = Resize <mode = "nearest"> (x, , scales)',
             {"scales": np.array([1, 2, 2, 2], np.float32)}), "it resizes by"),
    "a truth of times": (
        Case("""rounded = Round (t) times = Cast <to = 7> (rounded) some = Cast <to = 9> (times)
             y = Cast <to = 1> (some) column = Reshape (y, s) output = Mul (x, column)""",
             {"s": ints(-1, 1, 1, 1)}), "it casts to BOOL"),
    "a dropout that drops": (
        Case("output = Dropout (x, half, yes)", {"half": scalar(0.5), "yes": np.array(True)}),
        "as in training"),
    "an attribute": (Case("output = AveragePool <kernel_shape = [2, 2], dilations = [2, 2]> (x)"),
                     "dilations"),
    "an average padded on one side": (
        Case("output = AveragePool <kernel_shape = [2, 2], pads = [0, 0, 1, 1]> (x)"), "padding"),
    "an average along one axis": (
        Case("y = Reshape (x, s) output = AveragePool <kernel_shape = [3]> (y)",
             {"s": ints(0, 4, 36)}), "1 axes"),
    "an average of a row": (
        Case("y = Reshape (x, s) output = GlobalAveragePool (y)", {"s": ints(0, 4, 36)}), "1 axes"),
    "a size that depends on the inputs": (
        Case("i = Cast <to = 7> (t) output = Expand (x, i)"), "must be a constant"),
    "a constant out of proportion": (
        Case("big = ConstantOfShape (size) output = Add (x, big)",
             {"size": ints(1, 4, 60000, 60000)}), "elements"),
    "a range out of proportion": (
        Case("big = Range (zero, many, one) output = Add (x, big)",
             {"zero": scalar(0), "many": scalar(1e30), "one": scalar(1)}), "elements"),
}  # fmt: skip


@pytest.mark.parametrize(("case", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_not_known_is_refused_by_name(case: Case, reason: str) -> None:
    with pytest.raises(Unavailable, match=f"of case.onnx cannot be read: .*{reason}|{reason}"):
        OnnxModule(case.model(), "case.onnx")(torch.zeros(1, *SHAPE), torch.zeros(1))
