"""Contracts of the compiled kernels, for GPUs that need not be there."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from gpu_contracts import ContractError, check, find_tool
from triton import knobs

from fastdiff.kernels.noise.triton import fill_normal
from fastdiff.kernels.step.triton import gather, step

from ..contracts import (  # noqa: TID252
    MOST_SHARED_BYTES,
    RESERVED_SHARED_BYTES,
    SQUARE_ROOTS,
    TRITON,
    TRITON_VARIANTS,
)
from .compiling import AMD, NVIDIA, compiled

SLOTS, ROWS = 6, 4
TABLE, RECORDS = (torch.zeros(ROWS, size, dtype=torch.uint8) for size in (96, 40))
FLAGS = torch.zeros(ROWS, dtype=torch.uint8)
WORDS = torch.zeros(ROWS, dtype=torch.int64)


def call_step(
    n: int, history: int, output: torch.dtype, next_input: torch.dtype, denoised: bool
) -> None:
    state = torch.zeros(SLOTS, n)
    step(
        TABLE,
        RECORDS,
        state,
        torch.zeros(2 * ROWS, n, dtype=output),
        FLAGS,
        torch.zeros(history, SLOTS, n) if history else None,
        state.to(next_input),
        state if denoised else None,
    )


def call_fill_normal(n: int, first: int) -> None:
    fill_normal(torch.zeros(ROWS, n), WORDS, WORDS, 2**32 - 1, 255, 0.5, first)


def call_gather(n: int) -> None:
    next_input, x = (torch.zeros(rows, n, dtype=f16) for rows in (SLOTS, 2 * ROWS))
    gather(TABLE, RECORDS, next_input, x, torch.zeros(2 * ROWS))


f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16

CALLS: dict[str, Callable[[], None]] = {
    "triton step": lambda: call_step(4096, 4, f16, f16, True),
    "triton step, fp32": lambda: call_step(4096, 0, f32, f32, False),
    "triton step, bf16, odd size": lambda: call_step(123, 2, bf16, bf16, False),
    "triton step, one element": lambda: call_step(1, 1, bf16, f32, False),
    "triton gather": lambda: call_gather(4096),
    "triton fill_normal": lambda: call_fill_normal(4096, 0),
    "triton fill_normal, odd size": lambda: call_fill_normal(123, 2**34 - 1),
}


def kernel_of(name: str) -> str:
    return name.split(",")[0]


EVERY = [(name, arch) for arch in NVIDIA for name in TRITON]
EVERY += [(name, "sm_90") for name in TRITON_VARIANTS]
EXACT = [(name, arch) for name, arch in EVERY if kernel_of(name) in SQUARE_ROOTS]


@pytest.fixture(autouse=True, scope="module")
def own_triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Compile afresh; a warm cache would hide what the compiler does."""
    folder = tmp_path_factory.mktemp("triton")
    with knobs.cache.scope():
        knobs.cache.dir = str(folder)
        yield folder


class Binary(NamedTuple):
    cubin: Path
    ptx: str
    shared_bytes: int


@pytest.fixture(scope="module")
def binary_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Binary]:
    folder = tmp_path_factory.mktemp("cubins")

    @cache
    def compile_once(name: str, arch: str) -> Binary:
        kernel = compiled(CALLS[name], NVIDIA[arch])
        path = folder / f"{name}-{arch}.cubin"
        path.write_bytes(kernel.asm["cubin"])
        return Binary(path, kernel.asm["ptx"], kernel.metadata.shared)

    return compile_once


@pytest.mark.parametrize(("name", "arch"), EVERY)
def test_contract_is_kept(binary_of: Callable[[str, str], Binary], name: str, arch: str) -> None:
    """No spills, registers under their ceiling, 128-bit accesses, no fused multiply-adds."""
    cubin, ptx, shared_bytes = binary_of(name, arch)
    contract = {**TRITON, **TRITON_VARIANTS}[name]
    assert shared_bytes <= MOST_SHARED_BYTES
    if shared_bytes:
        contract = replace(contract, shared_bytes=RESERVED_SHARED_BYTES[arch])
    check(cubin, ptx, "kernel", arch, contract)


@pytest.mark.parametrize(("name", "arch"), EXACT)
def test_promised_bits_survive_the_compiler(
    binary_of: Callable[[str, str], Binary], name: str, arch: str
) -> None:
    """Machine code fuses only inside sqrt.rn: twice for each, and thrice in their common slow path.

    Nothing flushes subnormals, and what is narrowed is rounded to nearest even.
    """
    cubin, ptx, _ = binary_of(name, arch)
    square_roots = SQUARE_ROOTS[kernel_of(name)]
    assert len(re.findall(r"sqrt\.rn\.f32", ptx)) == square_roots
    assert ".ftz" not in ptx
    assert {"cvt.rn"} >= set(re.findall(r"cvt\.r\w", ptx))
    command = [str(find_tool("cuobjdump")), "-sass", str(cubin)]
    sass = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert len(re.findall(r"\bFFMA", sass)) == (2 * square_roots + 3 if square_roots else 0)


def test_contraction_would_be_caught(tmp_path: Path) -> None:
    """The contract of the noise fails once multiplications and additions may be fused."""
    kernel = compiled(CALLS["triton fill_normal"], NVIDIA["sm_80"], enable_fp_fusion=True)
    path = tmp_path / "fused.cubin"
    path.write_bytes(kernel.asm["cubin"])
    with pytest.raises(ContractError, match="fused multiply-adds in its PTX"):
        check(path, kernel.asm["ptx"], "kernel", "sm_80", TRITON["triton fill_normal"])


def test_bfloat16_is_rounded_to_nearest_even(binary_of: Callable[[str, str], Binary]) -> None:
    """Which the interpreter does not do."""
    assert re.search(
        r"cvt\.rn\.bf16\S*\.f32", binary_of("triton step, bf16, odd size", "sm_90").ptx
    )


@pytest.mark.parametrize("arch", AMD)
@pytest.mark.parametrize("name", TRITON)
def test_amd_binaries_spill_nothing(name: str, arch: str) -> None:
    code = compiled(CALLS[name], AMD[arch]).asm["amdgcn"]
    spills = re.findall(r"\.([sv]gpr_spill_count|private_segment_fixed_size): +(\d+)", code)
    assert sorted(spills) == [
        ("private_segment_fixed_size", "0"),
        ("sgpr_spill_count", "0"),
        ("vgpr_spill_count", "0"),
    ]
