"""Contracts of the compiled kernels, for GPUs that need not be there."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pytest
import torch
from triton import knobs

from fastdiff.kernels.noise.triton import fill_normal
from fastdiff.kernels.norm.triton import group_norm, modulated_layer_norm
from fastdiff.kernels.step.triton import gather, step

from .compiling import AMD, NVIDIA, compiled_for
from .machine_code import NvidiaCode, amd_spills, nvidia_code

SLOTS, ROWS = 6, 4
TABLE, RECORDS = (torch.zeros(ROWS, size, dtype=torch.uint8) for size in (96, 40))
FLAGS = torch.zeros(ROWS, dtype=torch.uint8)
WORDS = torch.zeros(ROWS, dtype=torch.int64)
MODULATION = torch.zeros(2, 6 * 1152).half().chunk(6, 1)


@dataclass(frozen=True)
class Contract:
    """What a kernel may cost.

    Attributes
    ----------
    call : callable
        The host function on the arguments for which the contract holds.
    registers : int
        Of each thread, at most.
    loads, stores : int
        128-bit accesses of global memory, at least; 0 where rows are not aligned.
    square_roots : int, optional
        Correctly rounded ones of a kernel that promises bits; None where it does not.
    """

    call: Callable[[], Any]
    registers: int
    loads: int
    stores: int
    square_roots: int | None = None


def call_step(
    n: int, history: int, output: torch.dtype, next_input: torch.dtype, denoised: bool
) -> Callable[[], None]:
    def call() -> None:
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

    return call


def call_group_norm(memory_format: torch.memory_format, size: int) -> Callable[[], Any]:
    x = torch.zeros(2, 256, size, size, dtype=torch.float16).to(memory_format=memory_format)
    parameter = torch.zeros(256, dtype=torch.float16)
    return lambda: group_norm(x, 32, parameter, parameter, silu=True)


f32, f16, bf16 = torch.float32, torch.float16, torch.bfloat16

CONTRACTS = {
    "step, fp16, 4 history slots": Contract(call_step(4096, 4, f16, f16, True), 96, 13, 7, 4),
    "fill_normal": Contract(
        lambda: fill_normal(torch.zeros(ROWS, 4096), WORDS, WORDS, 0, 1), 40, 0, 2, 4
    ),
    "gather, fp16": Contract(
        lambda: gather(
            TABLE,
            RECORDS,
            torch.zeros(SLOTS, 4096).half(),
            torch.zeros(2 * ROWS, 4096).half(),
            torch.zeros(2 * ROWS),
        ),
        32,
        1,
        2,
        0,
    ),
    "group_norm, fp16": Contract(call_group_norm(torch.contiguous_format, 16), 64, 2, 2),
    "group_norm, fp16, channels_last, two passes": Contract(
        call_group_norm(torch.channels_last, 64), 80, 4, 2
    ),
    "modulated_layer_norm, fp16": Contract(
        lambda: modulated_layer_norm(torch.zeros(2, 4, 1152).half(), *MODULATION[:2]), 48, 6, 2
    ),
}
"""Checked on every architecture."""

VARIANTS = {
    "step, fp32": Contract(call_step(4096, 0, f32, f32, False), 96, 8, 4, 4),
    "step, bf16, odd n": Contract(call_step(123, 2, bf16, bf16, False), 128, 0, 0, 4),
    "step, n = 1": Contract(call_step(1, 1, bf16, f32, False), 128, 0, 0, 4),
    "fill_normal, odd first": Contract(
        lambda: fill_normal(torch.zeros(ROWS, 123), WORDS, WORDS, 2**32 - 1, 255, 0.5, 2**34 - 1),
        48,
        0,
        0,
        4,
    ),
    "group_norm, odd size": Contract(lambda: group_norm(torch.zeros(1, 15, 5, 7), 3), 96, 0, 0),
    "modulated_layer_norm, odd size": Contract(
        lambda: modulated_layer_norm(torch.zeros(1, 3, 123), *torch.zeros(2, 1, 123)), 48, 0, 0
    ),
}
"""The other specialisations, on one architecture."""

EVERY = [(name, arch) for arch in NVIDIA for name in CONTRACTS]
EVERY += [(name, "sm_90") for name in VARIANTS]
every_binary = pytest.mark.parametrize(("name", "arch"), EVERY)


@pytest.fixture(autouse=True, scope="module")
def own_triton_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compile afresh; a warm cache would hide what the compiler does."""
    with knobs.cache.scope():
        knobs.cache.dir = str(tmp_path_factory.mktemp("triton"))
        yield


@lru_cache(maxsize=None)
def code_of(name: str, arch: str) -> NvidiaCode:
    with compiled_for(NVIDIA[arch]) as kernels:
        {**CONTRACTS, **VARIANTS}[name].call()
    (kernel,) = kernels
    return nvidia_code(kernel)


@every_binary
def test_resources_and_accesses(name: str, arch: str) -> None:
    """No spills, registers under their ceiling, 128-bit accesses."""
    contract, code = {**CONTRACTS, **VARIANTS}[name], code_of(name, arch)
    assert code.local_bytes == 0
    assert code.count(r"(?:LDL|STL)\b") == 0
    assert code.registers <= contract.registers
    assert code.count(r"LDG\S*\.128") >= contract.loads
    assert code.count(r"STG\S*\.128") >= contract.stores


@every_binary
def test_promised_bits_survive_the_compiler(name: str, arch: str) -> None:
    """No fused multiply-add but those of sqrt.rn: 2 each, and 3 in the slow path that they share.

    Nothing flushes subnormals, and casts round to nearest even.
    """
    contract = {**CONTRACTS, **VARIANTS}[name]
    if contract.square_roots is None:
        pytest.skip("a normalization promises accuracy, not bits")
    code = code_of(name, arch)
    assert not re.search(r"\b(?:fma|mad)\.\S*f32", code.ptx)
    assert ".ftz" not in code.ptx
    assert len(re.findall(r"sqrt\.rn\.f32", code.ptx)) == contract.square_roots
    assert code.count("FFMA") == (2 * contract.square_roots + 3 if contract.square_roots else 0)
    assert not re.search(r"cvt\.(?!rn\.|s|u|f32\.)\S*f(?:16|32)", code.ptx)


def test_bfloat16_is_rounded_to_nearest_even() -> None:
    assert "cvt.rn.bf16x2.f32" in code_of("step, bf16, odd n", "sm_90").ptx


@pytest.mark.parametrize("arch", AMD)
@pytest.mark.parametrize("name", CONTRACTS)
def test_amd_binaries_spill_nothing(name: str, arch: str) -> None:
    with compiled_for(AMD[arch]) as kernels:
        CONTRACTS[name].call()
    (kernel,) = kernels
    assert amd_spills(kernel) == 0
