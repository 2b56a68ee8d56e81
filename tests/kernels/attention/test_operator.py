from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape
from fastdiff.kernels.attention import attention, reference

from .cases import Shape, random_inputs

sizes = st.integers(1, 20)


@settings(max_examples=30, deadline=None)
@given(shape=st.builds(Shape, sizes, sizes, sizes, sizes, sizes), scale=st.floats(-2, 2))
def test_the_reference_is_the_definition(shape: Shape, scale: float) -> None:
    inputs = random_inputs(shape, torch.float64)
    expected = scaled_dot_product_attention(*inputs, scale=scale)
    got = reference.attention(*(tensor.numpy() for tensor in inputs), scale=scale)
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["BHLD", "BLHD", "fused"])
@pytest.mark.parametrize("scale", [None, 0.3, -0.3])
def test_on_a_cpu_it_is_torchs_own(dtype: torch.dtype, layout: str, scale: float | None) -> None:
    inputs = random_inputs(Shape(2, 3, 7, 5, 40), dtype, layout)
    got = attention(*inputs, scale)
    assert torch.equal(got, scaled_dot_product_attention(*inputs, scale=scale))
    assert got.transpose(1, 2).is_contiguous()


@pytest.mark.parametrize("layout", ["BHLD", "BLHD"])
def test_the_operator_keeps_torchs_rules(layout: str) -> None:
    inputs = random_inputs(Shape(2, 3, 7, 5, 16), torch.float32, layout)
    torch.library.opcheck(torch.ops.fastdiff.attention.default, (*inputs, None))
    torch.library.opcheck(torch.ops.fastdiff.attention.default, inputs, {"scale": 0.5})


def test_compilers_see_one_node() -> None:
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, example: list[torch.Tensor]) -> object:
        graphs.append(graph)
        return graph.forward

    inputs = random_inputs(Shape(1, 2, 9, 5, 8), torch.float32)
    compiled = torch.compile(attention, backend=keep, fullgraph=True)
    assert torch.equal(compiled(*inputs), attention(*inputs))
    calls = [node.target for graph in graphs for node in graph.graph.nodes if node.op[:4] == "call"]
    assert calls == [torch.ops.fastdiff.attention]


Q = torch.zeros(2, 3, 4, 8)


@pytest.mark.parametrize(
    ("k", "v", "error", "message"),
    [
        (torch.zeros(2, 3, 8), Q, InvalidShape, r"\(B, H, S, D\), got .* and \(2, 3, 8\)"),
        (torch.zeros(2, 1, 4, 8), Q, InvalidShape, r"got \(2, 3, 4, 8\) and \(2, 1, 4, 8\)"),
        (torch.zeros(2, 3, 4, 16), Q, InvalidShape, r"and \(2, 3, 4, 16\)"),
        (Q, torch.zeros(2, 3, 5, 8), InvalidShape, r"v of the shape of k, \(2, 3, 4, 8\)"),
        (Q.half(), Q, InvalidDtype, "k of q's torch.float32, got torch.float16"),
        (Q, Q.to("meta"), InvalidArgument, "v on q's cpu, got meta"),
    ],
)
def test_what_does_not_fit_is_refused(
    k: torch.Tensor, v: torch.Tensor, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        attention(Q, k, v)


def test_importing_it_imports_no_triton_and_no_cuda() -> None:
    code = (
        "import sys, torch; before = set(sys.modules); import fastdiff.kernels.attention; "
        "print(sorted(set(sys.modules) - before & {'triton', 'fastdiff._cuda'}))"
    )
    code = code.replace("set(sys.modules) - before & ", "(set(sys.modules) - before) & ")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"
