import numpy as np
import onnx
import pytest
import torch
from networks import row_by_row_network
from torch import nn

from fastdiff import errors
from fastdiff.denoisers import ENGINES, get_engine
from fastdiff.exporting import Conditioning, Network, export_onnx


class Conv(nn.Module):
    """Small, exportable, and sensitive to every input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.label = nn.Embedding(5, 3)
        self.text = nn.Linear(7, 3)

    def forward(self, x, t, class_labels, text):
        shift = self.label(class_labels) + self.text(text) + torch.sin(t / 100)[:, None].to(x.dtype)
        return self.conv(x) * shift[:, :, None, None]


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory):
    return export_onnx(conv_network(), tmp_path_factory.mktemp("onnx") / "conv.onnx")


def conv_network(onnx_file=None):
    inputs = {
        "class_labels": Conditioning(num_classes=4, null=4),
        "text": Conditioning(shape=(7,), dtype=torch.float32, null=0.0),
    }
    return Network(Conv(), (3, 6, 5), inputs, "conv", onnx_file)


def run(denoiser, x, t, conditioning):
    out = torch.full((len(x), denoiser.output_channels, *x.shape[2:]), torch.nan)
    out = out.to(denoiser.output_dtype)
    call = denoiser.bind(x.to(denoiser.input_dtype), t, conditioning, out)
    call()
    return out.float(), call


@pytest.mark.parametrize(("engine", "precision", "tolerance"), [
    ("eager", "float32", 0.0),
    ("eager", "bfloat16", 3e-2),
    ("onnxruntime", "float32", 1e-5),
])  # fmt: skip
def test_engine_gives_the_module_output(engine, precision, tolerance, onnx_file):
    network = conv_network(onnx_file)
    denoiser = get_engine(engine).build(network, precision)
    for batch in (1, 2, 7):
        x, t, conditioning = network.example(batch, seed=batch)
        expected = network.module(x, t, **conditioning).detach()
        got, _ = run(denoiser, x, t, conditioning)
        assert (got - expected).norm() <= tolerance * expected.norm()


@pytest.mark.parametrize("engine", sorted(ENGINES))
def test_bound_buffers_are_read_anew_by_each_call(engine, onnx_file):
    network = conv_network(onnx_file)
    denoiser = get_engine(engine).build(network, "float32")
    x, t, conditioning = network.example(3)
    out = torch.empty(3, 3, 6, 5)
    call = denoiser.bind(x, t, conditioning, out)
    call()
    x.mul_(2), t.add_(50)
    call()
    expected = network.module(x, t, **conditioning).detach()
    torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-5)


def test_building_leaves_the_caller_module_alone(onnx_file):
    network = conv_network(onnx_file)
    network.module.train()
    for engine in ENGINES.values():
        for precision in engine.precisions:
            engine.build(network, precision)
    assert network.module.training
    assert {p.dtype for p in network.module.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in network.module.parameters())


def test_exported_file_runs_anywhere(tmp_path):
    import onnxruntime

    network = conv_network()
    path = export_onnx(network, tmp_path / "denoiser.onnx")
    graph = onnx.load(path).graph
    assert [i.name for i in graph.input] == ["x", "t", "class_labels", "text"]
    assert [o.name for o in graph.output] == ["output"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
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


def test_unknown_and_missing_engines_are_named(monkeypatch):
    with pytest.raises(errors.UnknownName, match=r"known: auto, eager, onnxruntime"):
        get_engine("tensorflow")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.Unavailable, match="pip install onnxruntime"):
        get_engine("onnxruntime")


@pytest.mark.parametrize(("output", "message"), [
    (lambda x, t: (x,), "return a tensor, got tuple"),
    (lambda x, t: x[:, :, :1], r"got \(2, 1, 1, 5\)"),
    (lambda x, t: torch.cat([x] * 3, 1), r"1 or 2, 3, 5.*got \(2, 3, 3, 5\)"),
])  # fmt: skip
def test_a_model_that_returns_something_else_is_refused(output, message):
    class Wrong(nn.Module):
        def forward(self, x, t):
            return output(x, t)

    with pytest.raises(errors.ModelOutputError, match=message):
        Network(Wrong(), (1, 3, 5), name="wrong").probe()


def test_network_checks_its_own_description():
    module = row_by_row_network().module
    with pytest.raises(errors.InvalidArgument, match="no argument 'text'; it has: x, t, class_la"):
        Network(module, (1, 3, 5), {"text": Conditioning()})
    with pytest.raises(errors.InvalidShape, match=r"expected .C, H, W."):
        Network(module, (3, 5))
