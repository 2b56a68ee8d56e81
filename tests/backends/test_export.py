import numpy as np
import onnx
import pytest
from torch import nn

from fastdiff import errors
from fastdiff.exporting import export_onnx
from fastdiff.exporting.half import export_half
from fastdiff.networks import Network


def test_exported_file_runs_anywhere(network):
    import onnxruntime

    graph = onnx.load(network.onnx).graph
    assert [i.name for i in graph.input] == ["x", "t", "class_labels", "text"]
    assert [o.name for o in graph.output] == ["output"]
    session = onnxruntime.InferenceSession(network.onnx, providers=["CPUExecutionProvider"])
    x, t, conditioning = network.example(5)
    feed = {"x": x, "t": t, **conditioning}
    got = session.run(None, {name: value.numpy() for name, value in feed.items()})[0]
    np.testing.assert_allclose(got, network.module(**feed).detach(), rtol=1e-4, atol=1e-5)


class Untraceable(nn.Module):
    def forward(self, x, t):
        return x if x.sum() > 0 else -x


def test_export_failure_says_what_to_do(tmp_path):
    with pytest.raises(errors.InvalidArgument, match=r"cannot be exported.*backend='eager'"):
        export_onnx(Network(Untraceable(), (1, 2, 2), name="untraceable"), tmp_path / "m.onnx")


def test_half_export_rounds_behind_a_float32_interface(network, tmp_path):
    import onnxruntime

    path = export_half(network, "float16", tmp_path / "half.onnx")
    graph = onnx.load(path).graph
    kinds = onnx.TensorProto
    assert {w.data_type for w in graph.initializer if len(w.dims) > 1} == {kinds.FLOAT16}
    assert graph.input[0].type.tensor_type.elem_type == kinds.FLOAT
    assert graph.output[0].type.tensor_type.elem_type == kinds.FLOAT
    x, t, conditioning = network.example(3)
    feed = {"x": x, "t": t, **conditioning}
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    got = session.run(None, {name: value.numpy() for name, value in feed.items()})[0]
    expected = network.module(**feed).detach().numpy()
    error = np.linalg.norm(got - expected) / np.linalg.norm(expected)
    assert 1e-5 < error < 3e-3  # it is float16, and not float32
