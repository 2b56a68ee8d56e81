"""The native backend on networks that are known by their file alone, whoever exported it."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn

import fastdiff
from fastdiff.backends import BACKENDS, reference_denoiser
from fastdiff.compiler import describe
from fastdiff.compiling import tuning
from fastdiff.errors import Unavailable
from fastdiff.exporting import export_onnx
from fastdiff.native import Plan, plan_network
from fastdiff.networks import Network
from fastdiff.storing import artifact

TINY: dict[str, Any] = {
    "sample_size": 8, "block_out_channels": (16, 32), "layers_per_block": 1, "norm_num_groups": 8,
    "attention_head_dim": 8,
}  # fmt: skip


def unet() -> nn.Module:
    return diffusers.UNet2DModel(
        in_channels=3, out_channels=3, down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), **TINY,
    )  # fmt: skip


def text_unet() -> nn.Module:
    return diffusers.UNet2DConditionModel(
        in_channels=3, out_channels=3, cross_attention_dim=12,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **TINY,
    )  # fmt: skip


def dit() -> nn.Module:
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=3, out_channels=3, num_layers=2,
        sample_size=8, patch_size=2, num_embeds_ada_norm=5, norm_num_groups=8,
    )  # fmt: skip


class Positional(nn.Module):
    """What exporters are given: tensors in, one tensor out."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, sample: Tensor, timestep: Tensor, *condition: Tensor) -> Tensor:
        output: Tensor = self.model(sample, timestep, *condition, return_dict=False)[0]
        return output


def kinds(plan: Plan) -> Counter[str]:
    return Counter(type(node).__name__ for node in plan.nodes)


def deviation(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize("model", [text_unet, dit])
def test_a_file_has_the_plan_of_its_module(model, tmp_path: Path, run) -> None:
    torch.manual_seed(0)
    network, _ = describe(model().eval())
    path = export_onnx(network, tmp_path / "model.onnx")
    file = replace(network, module=None, onnx=path, output_channels=network.probe())
    denoiser = BACKENDS["native"].build(file, "float32")
    assert kinds(denoiser.packed.plan) == kinds(plan_network(network))
    x, t, conditioning = network.example(3)
    with torch.no_grad():
        expected = network.module(x, t, **conditioning)
    assert deviation(run(denoiser, x, t, conditioning), expected) < 1e-5


@pytest.mark.parametrize(
    ("model", "fused", "opset"), [(unet, False, 18), (text_unet, False, 14), (text_unet, True, 17)]
)
@pytest.mark.filterwarnings("ignore")  # this exporter is deprecated, and warns of what it traces
def test_a_file_of_the_exporter_that_most_files_come_from(
    model, fused: bool, opset: int, tmp_path: Path, run
) -> None:
    """Norms, attention and times in as many operators as it takes."""
    torch.manual_seed(0)
    module = Positional(model()).eval()
    for part in module.modules():
        if not fused and isinstance(part, Attention):
            part.set_processor(AttnProcessor())
    inputs = {"sample": torch.randn(2, 3, 8, 8), "timestep": torch.tensor([5, 900])}
    if model is text_unet:
        inputs["encoder_hidden_states"] = torch.randn(2, 7, 12)
    path = tmp_path / "theirs.onnx"
    torch.onnx.export(
        module, tuple(inputs.values()), str(path), input_names=list(inputs), dynamo=False,
        output_names=["out"], opset_version=opset,
        dynamic_axes={name: {0: "batch"} for name in (*inputs, "out")},
    )  # fmt: skip
    network, _ = describe(path)
    network = replace(network, onnx=export_onnx(network, tmp_path / "own.onnx"))
    denoiser = BACKENDS["native"].build(network, "float32")
    x, t, conditioning = network.example(3)
    t = t + 0.25  # which such a network rounds
    expected = reference_denoiser(network)
    got = run(denoiser, x, t, conditioning)
    assert deviation(got, run(expected, x, t, conditioning)) < 1e-5
    blocks = sum(isinstance(part, Attention) for part in module.modules())
    assert kinds(denoiser.packed.plan)["Attention"] == blocks


def test_a_compiled_model_from_elsewhere_runs_on_native_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "digits.fastdiff"
    options = {"precision": "float32", "tune": 0.01, "cache": False}
    fastdiff.compile("digits", backend="onnxruntime", **options).save(path)
    monkeypatch.setattr(artifact, "fingerprint", lambda: "elsewhere")
    # What is loaded leaves the precision to the machine, which must not decide this test.
    monkeypatch.setattr(tuning, "in_hardware", lambda precision, device: precision == "float32")
    loaded = fastdiff.load(path)
    native = [c for c in loaded.report.candidates if c.name == "native float32"]
    assert {c.refusal for c in native} == {None}  # at every batch size
    compiled = fastdiff.compile("digits", backend="native", **options)
    asked = {"class_labels": [3], "seed": 1, "steps": 4}
    torch.testing.assert_close(loaded.sample(**asked), compiled.sample(**asked), rtol=0, atol=2e-4)


def test_an_operator_without_a_kernel_is_named(tmp_path: Path) -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return x.sort(-1).values

    network = Network(Sorted(), (3, 8, 8))
    path = export_onnx(network, tmp_path / "sorted.onnx")
    file = replace(network, module=None, onnx=path, output_channels=3)
    with pytest.raises(Unavailable, match=r"TopK .* of sorted.onnx cannot be read"):
        BACKENDS["native"].build(file, "float32")
