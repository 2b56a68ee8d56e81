"""The CUDA kernels as machine code, for GPUs that need not be there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from gpu_contracts import Contract, ContractError, check, missing_tools, violations
from nvcc import STRICT, compile_cuda, missing_compiler

from ..contracts import ARCHITECTURES, CUDA  # noqa: TID252

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "csrc" / "cuda"
KERNELS = {
    "cuda step": ("step.cu", "4step", 9),
    "cuda gather": ("gather.cu", "6gather", 2),
    "cuda fill_normal": ("noise.cu", "fill_normal", 1),
}
"""Source, part of the mangled names, and how many functions are made of each template."""

pytestmark = pytest.mark.skipif(
    bool(reason := missing_compiler() or missing_tools()), reason=str(reason)
)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize("name", KERNELS)
def test_kernels_keep_their_contracts(name: str, arch: str) -> None:
    source, part, instances = KERNELS[name]
    binary = compile_cuda(SOURCES / source, arch, STRICT)
    resources = check(*binary, part, arch, CUDA[name])
    assert len(resources) == instances


def test_kernels_that_promise_bits_are_built_without_contraction() -> None:
    """Their operators cannot fuse anyway; a plain a * b + c beside them must not either."""
    text = (SOURCES / "CMakeLists.txt").read_text()
    assert (
        "set_source_files_properties(noise.cu step.cu\n  PROPERTIES COMPILE_OPTIONS --fmad=false)"
        in text
    )


PLANTED = {
    "spill": (
        "float all[200]; for (int i = 0; i < 200; ++i) all[i] = in[i * n];"
        "for (int i = 0; i < 200; ++i) out[i * n] = all[(i * n) % 200];",
        r"spill|stack frame",
    ),
    "narrow loads": ("for (int i = 0; i < 4; ++i) out[i] = in[i];", "0 loads of 128 bits"),
    "narrow stores": ("out[0] = in[0];", "0 stores of 128 bits"),
    "shared memory": (
        "__shared__ float s[64]; s[threadIdx.x] = in[0]; __syncthreads(); out[0] = s[n];",
        r"256 bytes of static shared memory, expected 0|1280 bytes",
    ),
    "contraction": ("out[0] = in[0] * in[1] + in[2];", "1 fused multiply-adds in its PTX"),
    "tensor cores": (
        "unsigned a = n; float d[4] = {};"
        'asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, '
        '{%4,%4,%4,%4}, {%4,%4}, {%0,%1,%2,%3};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])'
        ': "r"(a)); out[0] = d[0];',
        r"tensor-core instructions \['HMMA.16816.F32'\], expected none",
    ),
    "registers": ("out[0] = in[0] + in[n];", r"\d+ registers, expected at most 4"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_every_broken_contract_is_seen(name: str, tmp_path: Path) -> None:
    body, message = PLANTED[name]
    source = tmp_path / "planted.cu"
    source.write_text(
        'extern "C" __global__ void planted(const float* in, float* out, int n) {' + body + "}"
    )
    contract = Contract(registers=4 if name == "registers" else 255, wide_loads=1, wide_stores=1)
    with pytest.raises(ContractError, match=message):
        check(*compile_cuda(source, "sm_90"), "planted", "sm_90", contract)


def test_a_kernel_that_is_not_there_is_an_error() -> None:
    binary = compile_cuda(SOURCES / "gather.cu", "sm_90", STRICT)
    with pytest.raises(ContractError, match="no function named 'scatter'"):
        check(*binary, "scatter", "sm_90", CUDA["cuda gather"])


def test_missing_tensor_core_instructions_break_a_contract() -> None:
    binary = compile_cuda(SOURCES / "gather.cu", "sm_90", STRICT)
    (used, *_) = check(*binary, "gather", "sm_90", CUDA["cuda gather"])
    wanted = replace(CUDA["cuda gather"], tensor_core="HMMA.16816.F32")
    assert violations(used, wanted) == ["tensor-core instructions none, expected HMMA.16816.F32"]
    other = replace(used, tensor_core=frozenset({"HMMA.1688.F32"}))
    assert len(violations(other, wanted)) == 1
