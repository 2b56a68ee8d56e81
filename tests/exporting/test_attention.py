from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from fastdiff.exporting.attention import AttentionCall, onnx_translations, replace_attention

OPERATOR = torch.ops.fastdiff.attention.default


class UNet(nn.Module):
    """A diffusers UNet2DModel with attention at one resolution, as model(x, t)."""

    PATHS = (
        "down_blocks.1.attentions.0",
        "mid_block.attentions.0",
        "up_blocks.0.attentions.0",
        "up_blocks.0.attentions.1",
    )

    def __init__(self) -> None:
        super().__init__()
        from diffusers import UNet2DModel

        self.net = UNet2DModel(
            sample_size=8,
            block_out_channels=(16, 32),
            down_block_types=("DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D"),
            layers_per_block=1,
            norm_num_groups=4,
            attention_head_dim=8,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        output: Tensor = self.net(x, t, return_dict=False)[0]
        return output


class DiT(nn.Module):
    """A diffusers DiT with heads of 40, as model(x, t)."""

    PATHS = ("transformer_blocks.0.attn1", "transformer_blocks.1.attn1")

    def __init__(self) -> None:
        super().__init__()
        from diffusers import DiTTransformer2DModel

        self.net = DiTTransformer2DModel(
            num_attention_heads=2,
            attention_head_dim=40,
            in_channels=3,
            num_layers=2,
            sample_size=8,
            num_embeds_ada_norm=10,
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        labels = torch.full_like(t, 3, dtype=torch.int64)
        output: Tensor = self.net(x, timestep=t, class_labels=labels, return_dict=False)[0]
        return output


class Calls(nn.Module):
    """Every way to call the function that matters, each in a submodule of its own name."""

    class Call(nn.Module):
        def __init__(self, **arguments: Any) -> None:
            super().__init__()
            self.arguments = arguments

        def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return scaled_dot_product_attention(q, k, v, **self.arguments)

    def __init__(self) -> None:
        super().__init__()
        self.plain = self.Call()
        self.scaled = self.Call(scale=0.7)
        self.masked = self.Call(attn_mask=torch.ones(5, 7).tril().bool())
        self.dropout = self.Call(dropout_p=0.5)
        self.causal = self.Call(is_causal=True)
        self.grouped = self.Call(enable_gqa=True)
        self.flat = self.Call()
        self.odd = self.Call()
        self.wide = self.Call()

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> dict[str, Tensor]:
        torch.manual_seed(0)
        inputs = {
            "flat": [tensor[0] for tensor in (q, k, v)],
            "odd": [tensor[..., :12] for tensor in (q, k, v)],
            "wide": [tensor.repeat(1, 1, 1, 11) for tensor in (q, k, v)],
        }
        return {name: call(*inputs.get(name, (q, k, v))) for name, call in self.named_children()}


KEPT = {
    "plain": None,
    "scaled": None,
    "masked": "has a mask",
    "dropout": "has dropout",
    "causal": "is causal",
    "grouped": "has grouped heads",
    "flat": "is not (B, H, length, D) three times: (2, 5, 16), (2, 7, 16), (2, 7, 16)",
    "odd": "has a head size of 12, not a multiple of 8 up to 160",
    "wide": "has a head size of 176, not a multiple of 8 up to 160",
}


def example(rows: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, 3, 8, 8, generator=generator), torch.linspace(3, 900, rows)


def qkv() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 16, generator=generator) for n in (5, 7, 7))
    return q, k, v


@pytest.fixture(scope="module", params=[UNet, DiT])
def model(request: pytest.FixtureRequest) -> nn.Module:
    pytest.importorskip("diffusers")
    torch.manual_seed(0)
    made: nn.Module = request.param().eval()
    return made


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """torch's exporter and diffusers warn of what they do themselves."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    log.setLevel(level)


def operators(graph: torch.fx.Graph) -> int:
    return len(graph.find_nodes(op="call_function", target=OPERATOR))


def test_a_module_is_wrapped(model: Any) -> None:
    replaced, calls = replace_attention(model, example())
    assert calls == [AttentionCall(f"net.{path}", None) for path in model.PATHS]
    program = torch.export.export(replaced, example())
    assert operators(program.graph) == len(calls)
    with torch.inference_mode():
        for rows in (1, 3):
            torch.testing.assert_close(replaced(*example(rows)), model(*example(rows)))


def test_an_exported_graph_is_rewritten(model: Any) -> None:
    exported = torch.export.export(model, example()).module()
    before = copy.deepcopy(exported.graph)
    replaced, calls = replace_attention(exported)
    assert calls == [AttentionCall(f"net.{path}", None) for path in model.PATHS]
    assert operators(replaced.graph) == len(calls)
    assert str(exported.graph) == str(before)
    weights = {tensor.data_ptr() for tensor in exported.parameters()}
    assert weights == {tensor.data_ptr() for tensor in replaced.parameters()}
    with torch.inference_mode():
        torch.testing.assert_close(replaced(*example()), model(*example()))


@pytest.mark.parametrize("exported", [False, True])
def test_what_the_operator_cannot_do_stays_and_is_listed(exported: bool) -> None:
    model: Any = Calls().eval()
    expected = model(*qkv())
    model = torch.export.export(model, qkv()).module() if exported else model
    replaced, calls = replace_attention(model, qkv())
    assert {call.module: call.kept for call in calls} == KEPT
    got = replaced(*qkv())
    for name in KEPT:
        torch.testing.assert_close(got[name], expected[name], msg=name)


def test_nothing_outside_is_changed() -> None:
    """Not the function, not the model, not another thread's or a later call."""
    model = Calls().eval()
    replaced, _ = replace_attention(model, qkv())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
    replaced(*qkv())
    program = torch.export.export(model, qkv())
    assert operators(program.graph) == 0


def test_compilers_see_one_node_for_each_call() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, example: list[Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    call = Calls.Call(scale=0.7)
    replaced, _ = replace_attention(call, qkv())
    compiled = torch.compile(replaced, backend=keep, fullgraph=True)
    torch.testing.assert_close(compiled(*qkv()), call(*qkv()))
    (graph,) = graphs
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert targets == [torch.ops.fastdiff.attention]


@pytest.mark.parametrize("scale", [None, 0.3])
def test_onnx_has_its_standard_operator(scale: float | None) -> None:
    call = Calls.Call(scale=scale)
    replaced, _ = replace_attention(call, qkv())
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.onnx.export(
        replaced,
        qkv(),
        dynamo=True,
        verbose=False,
        opset_version=23,
        dynamic_shapes={"args": ({2: length}, None, None)},
        custom_translation_table=onnx_translations(),
    )
    assert program is not None
    assert [node.op_type for node in program.model.graph] == ["Attention"]
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    q, k, v = qkv()
    q = torch.cat([q, q, -q], 2)
    names = [value.name for value in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, (q, k, v), strict=True)}
    (got,) = session.run(None, feed)
    np.testing.assert_allclose(got, call(q, k, v).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("model", [DiT], indirect=True)
def test_a_network_runs_as_onnx(model: Any) -> None:
    replaced, calls = replace_attention(model, example())
    program = torch.onnx.export(
        replaced,
        example(),
        dynamo=True,
        verbose=False,
        opset_version=23,
        custom_translation_table=onnx_translations(),
    )
    assert program is not None
    operators = [node.op_type for node in program.model.graph]
    assert operators.count("Attention") == len(calls)
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_inputs()]
    feed = {name: tensor.numpy() for name, tensor in zip(names, example(), strict=True)}
    (got,) = session.run(None, feed)
    with torch.inference_mode():
        expected = model(*example()).numpy()
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
