"""The CUDA kernel, run on the CPU by tests/emulator."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from emulator import (
    SCHEDULES,
    KernelFault,
    Library,
    Mutation,
    Schedule,
    build,
    sanitizer_environment,
)

from . import emulated
from .cases import Shape, assert_as_accurate_as_torch, random_inputs
from .emulated import EVERY_SIZE, FAST_BUILD, KERNEL, ONE_SIZE, attend

SHAPES = [
    Shape(1, 1, 1, 1, 64),
    Shape(1, 2, 77, 63, 40),
    Shape(2, 1, 1, 77, 64),
    Shape(1, 1, 257, 257, 80),
    Shape(1, 1, 64, 1024, 128),
    Shape(1, 1, 63, 64, 160),
    Shape(1, 1, 1024, 77, 32),
    Shape(1, 3, 5, 7, 72),
    Shape(2, 2, 130, 65, 8),
    Shape(1, 1, 3, 130, 152),
]
SMALL = Shape(1, 1, 100, 150, 24)
"""More than one tile of keys, the last one partial, and a padded head."""

MUTANTS = {
    "tile used before it is there": (
        "    cp_async_wait<0>();\n    __syncthreads();  // this",
        "    __syncthreads();  // this",
    ),
    "buffer refilled while others read it": (
        "__syncthreads();  // this tile is there, and nobody reads the other",
        "//",
    ),
    "q read before it is there": ("  __syncthreads();\n  WarpRows", "  WarpRows"),
    "result staged over keys in use": ("__syncthreads();  // nobody reads the buffer", "//"),
    "rows stored before other lanes wrote them": ("    __syncwarp();\n", ""),
    "one key too many": (">= left) scores", "> left) scores"),
    "one row and padding too many": ("row < left && column < head_size);", "row <= left);"),
    "wrong fragment of k": ("{keys[0], keys[1]}", "{keys[0], keys[2]}"),
    "wrong fragment of v": ("{values[2], values[3]}", "{values[3], values[2]}"),
    "wrong rows of q": ("lane % 16) * Tile::kPitch + lane / 16 * 8", "lane % 16) * Tile::kPitch"),
    "sum of some columns": ("    sum += __shfl_xor_sync(~0u, sum, 2);\n", ""),
    "no rescaling": ("result[f][d][2 * half] *= rescale;", ""),
}
"""Edits of the kernel, none of which may pass: what it would do, and the text before and after."""


@cache
def library() -> Library:
    return Library(build([EVERY_SIZE], flags=FAST_BUILD))


@cache
def small_library() -> Library:
    return Library(build([ONE_SIZE], flags=FAST_BUILD))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_is_as_accurate_as_torch(shape: Shape, dtype: torch.dtype) -> None:
    inputs = random_inputs(shape, dtype)
    assert_as_accurate_as_torch(attend(library(), *inputs), inputs)


@pytest.mark.parametrize("layout", ["BHLD", "BLHD", "padded", "fused"])
def test_any_layout_is_read_in_place(layout: str) -> None:
    inputs = random_inputs(Shape(2, 3, 65, 33, 16), torch.float16, layout)
    assert_as_accurate_as_torch(attend(small_library(), *inputs), inputs)


@pytest.mark.parametrize(("magnitude", "scale"), [(1.0, 0.7), (30.0, None), (100.0, 0.001)])
def test_any_range_of_scores_is_as_accurate_as_torch(magnitude: float, scale: float | None) -> None:
    """Scores of thousands, whose exponentials no float holds."""
    inputs = random_inputs(SMALL, torch.float16, magnitude=magnitude)
    assert_as_accurate_as_torch(attend(small_library(), *inputs, scale), inputs, scale)


def test_rows_that_are_not_finite_stay_alone() -> None:
    q, k, v = random_inputs(SMALL, torch.float16)
    expected = attend(small_library(), q, k, v)
    q[0, 0, 37, 5] = torch.nan
    got = attend(small_library(), q, k, v)
    assert got[0, 0, 37].isnan().all()
    rest = torch.arange(SMALL.queries) != 37
    torch.testing.assert_close(got[:, :, rest], expected[:, :, rest], rtol=0, atol=0)


def test_matrix_loads_have_no_bank_conflicts() -> None:
    library().counters()
    for size in (32, 40, 64, 80, 128, 160):
        attend(library(), *random_inputs(Shape(1, 1, 64, 64, size), torch.float16))
    counters = library().counters()
    assert counters["bank_conflicts"] == 0
    assert counters["matrix_loads"] > 1000


def test_one_barrier_for_each_tile_of_keys() -> None:
    small_library().counters()
    attend(small_library(), *random_inputs(Shape(1, 1, 64, 10 * 64, 32), torch.float16))
    assert small_library().counters()["barriers"] == 10 + 2


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_schedule_gives_the_same_bits(schedule: Schedule) -> None:
    inputs = random_inputs(SMALL, torch.float16)
    expected = attend(small_library(), *inputs)
    with small_library().schedule(schedule):
        assert torch.equal(attend(small_library(), *inputs), expected)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    mutant = Library(build([ONE_SIZE], mutation=Mutation(KERNEL, *MUTANTS[name]), flags=FAST_BUILD))
    inputs = random_inputs(SMALL, torch.float16)
    for schedule in SCHEDULES:
        with mutant.schedule(schedule):
            try:
                assert_as_accurate_as_torch(attend(mutant, *inputs), inputs)
            except (KernelFault, AssertionError):
                return
    pytest.fail("passed in every schedule")


def test_sanitizers_find_nothing() -> None:
    """Address and undefined behaviour, in a process of its own."""
    environment = sanitizer_environment()
    environment["PYTHONPATH"] = ":".join(sys.path)
    path = build([ONE_SIZE], sanitize=True, flags=FAST_BUILD)
    command = [sys.executable, str(Path(emulated.__file__)), str(path)]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert result.returncode == 0, result.stderr
