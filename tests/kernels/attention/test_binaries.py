"""Contracts of the compiled attention kernels, for GPUs that need not be there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
import triton
from emulator import ROOT
from gpu_contracts import Contract, check, missing_tools
from nvcc import compile_cuda, missing_compiler
from triton import knobs
from triton.backends.compiler import GPUTarget

from fastdiff.kernels.attention.triton import attention_kernel, launch_arguments

from ..contracts import (  # noqa: TID252
    BLOCK_SHARED_BYTES,
    CUDA_ATTENTION,
    RESERVED_SHARED_BYTES,
    TENSOR_CORES,
    TRITON_ATTENTION,
    TRITON_ATTENTION_VARIANTS,
)
from ..triton.compiling import AMD, NVIDIA, NamedTarget  # noqa: TID252

SOURCE = ROOT / "csrc" / "cuda" / "attention.cu"
TRITON_CASES = [
    *((arch, *case, contract) for arch in NVIDIA for case, contract in TRITON_ATTENTION.items()),
    *((*case, contract) for case, contract in TRITON_ATTENTION_VARIANTS.items()),
]

needs_tools = pytest.mark.skipif(missing_tools() is not None, reason=str(missing_tools()))


@pytest.fixture(autouse=True, scope="module")
def own_triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile afresh; a warm cache would hide what the compiler does."""
    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
        yield


def compiled(target: GPUTarget, size: int, length: int, dtype: torch.dtype) -> Any:
    """The kernel as a launch on `target` would specialise it, for (B, L, H, D) storage."""
    q = torch.empty(2, length, 8, size, dtype=dtype).transpose(1, 2)
    capability = divmod(target.arch, 10) if target.backend == "cuda" else None
    grid, arguments, meta = launch_arguments(q, q, q, q, 0.125, capability)
    with patch.object(triton.runtime.driver, "_active", NamedTarget(target)):
        attention_kernel.device_caches.clear()  # they do not look at the target again
        return attention_kernel.warmup(*arguments, grid=grid, **meta)


@needs_tools
@pytest.mark.parametrize(("arch", "size", "length", "contract"), TRITON_CASES)
def test_triton_keeps_its_contract(
    arch: str, size: int, length: int, contract: Contract, tmp_path: Path
) -> None:
    dtype = torch.bfloat16 if size == 160 else torch.float16
    kernel = compiled(NVIDIA[arch], size, length, dtype)
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(kernel.asm["cubin"])
    opcode, instruction = TENSOR_CORES[arch]
    contract = replace(contract, tensor_core=opcode, shared_bytes=RESERVED_SHARED_BYTES[arch])
    check(cubin, kernel.asm["ptx"], "attention_kernel", arch, contract)
    assert instruction in kernel.asm["ptx"]
    assert kernel.metadata.shared <= BLOCK_SHARED_BYTES[arch]


@pytest.mark.parametrize(("arch", "size"), [("gfx90a", 40), ("gfx90a", 160), ("gfx942", 160)])
def test_amd_binaries_spill_nothing(arch: str, size: int) -> None:
    kernel = compiled(AMD[arch], size, 1000, torch.float16)
    code = kernel.asm["amdgcn"]
    spills = re.findall(r"\.([sv]gpr_spill_count|private_segment_fixed_size): +(\d+)", code)
    assert sorted(spills) == [
        ("private_segment_fixed_size", "0"),
        ("sgpr_spill_count", "0"),
        ("vgpr_spill_count", "0"),
    ]
    assert "v_mfma_f32" in code
    assert kernel.metadata.shared <= BLOCK_SHARED_BYTES["amd"]


@needs_tools
@pytest.mark.skipif(missing_compiler() is not None, reason=str(missing_compiler()))
@pytest.mark.parametrize("arch", NVIDIA)
def test_cuda_keeps_its_contracts(arch: str) -> None:
    binary = compile_cuda(SOURCE, arch)
    for size, contract in CUDA_ATTENTION.items():
        contract = replace(contract, shared_bytes=RESERVED_SHARED_BYTES[arch])
        resources = check(*binary, f"attention_kernelINS0_7Float16ELi{size}E", arch, contract)
        resources += check(*binary, f"attention_kernelINS0_8BFloat16ELi{size}E", arch, contract)
        assert len(resources) == 2
