"""Export of a network."""

from collections import Counter

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate, scaled_dot_product_attention

from fastdiff import errors
from fastdiff.exporting import export_onnx, read_metadata
from fastdiff.exporting.onnx import OPSET, replacing
from fastdiff.networks import Conditioning, Network, first_line


class AttentionAndNorms(nn.Module):
    """Attention, and group norms of ranks 3 and 4, with and without weights."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.bare = nn.GroupNorm(2, 4), nn.GroupNorm(4, 4, affine=False)
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        self.qkv = nn.Linear(4, 12)

    def forward(self, x, t):
        tokens = self.norm(x.flatten(2)).transpose(1, 2)
        q, k, v = self.qkv(tokens).chunk(3, dim=-1)
        attended = scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
        y = attended.transpose(1, 2).reshape(x.shape) + torch.sin(t)[:, None, None, None]
        return self.bare(self.norm(y))


def test_attention_stays_whole_and_group_norm_becomes_instance_norm(tmp_path):
    network = Network(AttentionAndNorms(), (4, 3, 5), name="attention")
    path = export_onnx(network, tmp_path / "m.onnx")
    model = onnx.load(path)
    kinds = Counter(node.op_type for node in model.graph.node)
    assert (kinds["Attention"], kinds["Softmax"]) == (1, 0)
    assert (kinds["GroupNormalization"], kinds["InstanceNormalization"]) == (0, 3)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for batch in (1, 7):
        x, t, _ = network.example(batch)
        got = session.run(None, {"x": x.numpy(), "t": t.numpy()})[0]
        np.testing.assert_allclose(got, network.module(x, t).detach(), rtol=1e-4, atol=1e-5)


def test_small_weights_stay_in_the_file_without_notes_on_this_machine(exported):
    path = exported[2].onnx
    assert not path.with_name(f"{path.name}.data").exists()
    content = path.read_bytes()
    assert len(content) < 4 * sum(p.numel() for p in exported[2].module.parameters()) + 10_000
    assert b".py" not in content


class Pyramid(nn.Module):
    """Halves the size and doubles it again, as U-Nets do."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.Conv2d(1, 4, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(2, 4)
        self.up = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x, t):
        h = self.norm(self.down(x) + torch.sin(t)[:, None, None, None])
        return x + self.up(interpolate(h, scale_factor=2.0, mode="nearest"))


def test_open_size_runs_at_sizes_that_the_export_never_saw(tmp_path):
    network = Network(Pyramid(), (1, 8, 4), name="pyramid")
    path = export_onnx(network, tmp_path / "m.onnx", dynamic_size=True)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == ["batch", 1, "height", "width"]
    for size in ((6, 10), (22, 2)):
        x, t = torch.randn(3, 1, *size), torch.tensor([0.0, 7.5, 999.0])
        got = session.run(None, {"x": x.numpy(), "t": t.numpy()})[0]
        np.testing.assert_allclose(got, network.module(x, t).detach(), rtol=1e-4, atol=1e-5)
    session = onnxruntime.InferenceSession(export_onnx(network, tmp_path / "fixed.onnx"))
    assert session.get_inputs()[0].shape == ["batch", 1, 8, 4]


class OneSize(nn.Module):
    def __init__(self):
        super().__init__()
        self.position = nn.Parameter(torch.ones(4, 6))

    def forward(self, x, t):
        return x + self.position


class OwnSizeIsSpecial(nn.Module):
    def forward(self, x, t):
        return x if tuple(x.shape[2:]) == (4, 6) else 2 * x


def test_open_size_is_refused_with_the_reason(tmp_path):
    for module, reason in (
        (OneSize(), "since it does not run at 8 x 6: The size of tensor a .8. must match"),
        (OwnSizeIsSpecial(), "tracing inferred a static shape of 4 for dimension"),
    ):
        network = Network(module, (1, 4, 6), name="one-size")
        with pytest.raises(errors.InvalidArgument, match=f"one-size cannot be exported.*{reason}"):
            export_onnx(network, tmp_path / "m.onnx", dynamic_size=True)
    assert list(tmp_path.iterdir()) == []


class CalledAlike(nn.Module):
    """Its transposed weight and a product of its own are called like its inputs."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(4, 4))

    def forward(self, x, t, mul):
        y = (x.flatten(1) * mul) @ self.weight.t()
        return y.view_as(x) + t[:, None, None, None]


def test_what_is_called_like_an_input_has_another_name_in_the_file(tmp_path):
    conditioning = {"mul": Conditioning((4,), torch.float32)}
    network = Network(CalledAlike(), (1, 2, 2), conditioning, "alike")
    session = onnxruntime.InferenceSession(
        export_onnx(network, tmp_path / "m.onnx"), providers=["CPUExecutionProvider"]
    )
    assert [value.name for value in session.get_inputs()] == ["x", "t", "mul"]
    x, t, given = network.example(3)
    got = session.run(None, {"x": x.numpy(), "t": t.numpy(), "mul": given["mul"].numpy()})[0]
    expected = network.module(x, t, **given).detach()
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


class DecidesByData(nn.Module):
    def forward(self, x, t):
        return x if x.sum() > 0 else -x


def test_torch_reason_is_told_and_not_its_headline(tmp_path):
    with pytest.raises(errors.InvalidArgument, match="ONNX: Could not guard on data-dependent"):
        export_onnx(Network(DecidesByData(), (1, 2, 2), name="data"), tmp_path / "m.onnx")


def test_first_line_goes_back_to_the_reason():
    headline = RuntimeError("pages\nof help")
    headline.__cause__ = ValueError("conflicts:\n  - at 4\n  - at 5")
    assert first_line(headline) == "conflicts: at 4"
    ours = errors.Unavailable("not here: because\nof that")
    ours.__cause__ = headline
    assert first_line(ours) == "not here: because"
    assert first_line(KeyError()) == "KeyError"
    assert first_line(OSError("one\ntwo")) == "one"


def test_large_weights_lie_beside_the_file_and_go_with_it(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.onnx._internal.exporter._onnx_program._LARGE_MODEL_THRESHOLD", 1)
    network, path = Network(Wide(), (1, 8, 8), name="wide"), tmp_path / "m.onnx"
    export_onnx(network, path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert path.stat().st_size < 4 * 4096 <= (tmp_path / "m.onnx.data").stat().st_size
    moved = tmp_path.rename(tmp_path.with_name("moved")) / "m.onnx"
    assert read_metadata(moved).sample_shape == (1, 8, 8)
    session = onnxruntime.InferenceSession(moved, providers=["CPUExecutionProvider"])
    x, t, _ = network.example(2)
    got = session.run(None, {"x": x.numpy(), "t": t.numpy()})[0]
    np.testing.assert_allclose(got, network.module(x, t).detach(), rtol=1e-4, atol=1e-5)
    monkeypatch.undo()
    export_onnx(network, moved)
    assert [p.name for p in moved.parent.iterdir()] == ["m.onnx"]


class Wide(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix = nn.Linear(64, 64)

    def forward(self, x, t):
        return self.mix(x.flatten(1)).view(x.shape) + t[:, None, None, None]


class OtherWhenExported(nn.Module):
    def forward(self, x, t):
        return x * (1.01 if torch.compiler.is_exporting() else 1.0)


def test_wrong_translation_is_refused_with_its_error(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("what was there")
    with pytest.raises(
        errors.ModelOutputError, match=r"relative error 0\.01 .* 2 x 2.* at most 0\.001"
    ):
        export_onnx(Network(OtherWhenExported(), (1, 2, 2), name="other"), path)
    assert path.read_text() == "what was there"
    assert list(tmp_path.iterdir()) == [path]


class NotFinite(nn.Module):
    def forward(self, x, t):
        return x / 0.0 * 0.0


def test_network_that_returns_nan_is_refused(tmp_path):
    with pytest.raises(errors.ModelOutputError, match="relative error nan"):
        export_onnx(Network(NotFinite(), (1, 2, 2), name="nan"), tmp_path / "m.onnx")


class Zero(nn.Module):
    def forward(self, x, t):
        return x * 0.0


def test_network_that_returns_zero_is_no_error(tmp_path):
    path = export_onnx(Network(Zero(), (1, 2, 2), name="zero"), tmp_path / "m.onnx")
    onnx.checker.check_model(str(path))


def test_replacing_moves_a_model_with_what_lies_beside_it(tmp_path):
    (tmp_path / "m.onnx").write_text("old")
    with replacing(tmp_path / "m.onnx") as path:
        path.write_text("new")
        path.with_name("m.onnx.data").write_text("weights")
        assert (tmp_path / "m.onnx").read_text() == "old"
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {
        "m.onnx": "new", "m.onnx.data": "weights",
    }  # fmt: skip
