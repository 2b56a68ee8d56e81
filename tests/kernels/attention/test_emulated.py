"""The CUDA kernel, run on the CPU by tests/cuda_on_cpu."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from emulated_cuda import emulated_cuda
from emulator import (
    ROOT,
    SCHEDULES,
    KernelFault,
    Library,
    Mutation,
    Schedule,
    build,
    sanitizer_environment,
)
from torch import Tensor

from fastdiff.kernels.attention.cuda import attention

from .cases import (
    LAYOUTS,
    RANGES,
    SHAPES,
    Inputs,
    Shape,
    assert_as_accurate_as_torch,
    padded_output,
    random_inputs,
)
from .emulated import KERNEL, ONE_SIZE, attend

SMALL = Shape(1, 1, 100, 150, 24)
"""More than one tile of keys, the last one partial, and a padded head."""

MUTANTS = {
    "tile used before it is there": (
        "    cp_async_wait<0>();\n    __syncthreads();  // this",
        "    __syncthreads();  // this",
    ),
    "buffer refilled while others read it": (
        "__syncthreads();  // this tile has arrived, and no warp reads the other buffer",
        "//",
    ),
    "q read before it is there": ("  __syncthreads();\n  WarpRows", "  WarpRows"),
    "result staged over keys in use": (
        "__syncthreads();  // no warp reads the buffer any more",
        "//",
    ),
    "rows stored before other lanes wrote them": ("    __syncwarp();\n", ""),
    "one key too many": (">= left) scores", "> left) scores"),
    "one row too many": ("global, row < left", "global, row <= left"),
    "wrong fragment of k": ("{keys[0], keys[1]}", "{keys[0], keys[2]}"),
    "wrong fragment of v": ("{values[2], values[3]}", "{values[3], values[2]}"),
    "wrong rows of q": ("lane % 16) * Tile::kPitch + lane / 16 * 8", "lane % 16) * Tile::kPitch"),
    "sum of some columns": ("    sum += __shfl_xor_sync(~0u, sum, 2);\n", ""),
    "no rescaling": ("result[f][d][2 * half] *= rescale;", ""),
}
"""Edits of the kernel, none of which may pass: what it would do, and the text before and after."""


@pytest.fixture(scope="module")
def every_kernel() -> Iterator[Library]:
    """The whole extension module, as it is built for a GPU."""
    with emulated_cuda() as library:
        yield library


@pytest.fixture(scope="module")
def one_kernel() -> Library:
    """The kernel of head sizes up to 32 in float16."""
    return Library(build([ONE_SIZE]))


def run(inputs: Inputs, scale: float | None = None, *, library: Library | None = None) -> Tensor:
    """The kernels of fastdiff, or those of a library; what is beside the result stays untouched."""
    out, beside = padded_output(inputs.q)
    scale = inputs.q.shape[3] ** -0.5 if scale is None else scale
    if library is None:
        attention(*inputs, out, scale)
    else:
        attend(library, inputs, out, scale)
    assert beside.isnan().all(), "wrote past the end of a row"
    return out


@pytest.mark.usefixtures("every_kernel")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_is_as_accurate_as_torch(shape: Shape, dtype: torch.dtype) -> None:
    inputs = random_inputs(shape, dtype)
    assert_as_accurate_as_torch(run(inputs), inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_is_read_in_place(one_kernel: Library, layout: str) -> None:
    inputs = random_inputs(Shape(2, 3, 65, 33, 16), torch.float16, layout)
    assert_as_accurate_as_torch(run(inputs, library=one_kernel), inputs)


@pytest.mark.parametrize(("magnitude", "scale"), RANGES)
def test_any_range_of_scores_is_as_accurate_as_torch(
    one_kernel: Library, magnitude: float, scale: float | None
) -> None:
    inputs = random_inputs(SMALL, torch.float16, magnitude=magnitude)
    assert_as_accurate_as_torch(run(inputs, scale, library=one_kernel), inputs, scale)


def test_a_row_that_is_not_finite_stays_alone(one_kernel: Library) -> None:
    inputs = random_inputs(SMALL, torch.float16)
    expected = run(inputs, library=one_kernel)
    inputs.q[0, 0, 37, 5] = torch.nan
    expected[0, 0, 37] = torch.nan
    got = run(inputs, library=one_kernel)
    torch.testing.assert_close(got, expected, rtol=0, atol=0, equal_nan=True)


def test_matrix_loads_have_no_bank_conflicts(every_kernel: Library) -> None:
    every_kernel.counters()
    for size in (32, 40, 64, 80, 128, 160):
        run(random_inputs(Shape(1, 1, 64, 64, size), torch.float16))
    counters = every_kernel.counters()
    assert counters["bank_conflicts"] == 0
    assert counters["matrix_loads"] > 1000


def test_there_is_one_barrier_for_each_tile_of_keys(one_kernel: Library) -> None:
    one_kernel.counters()
    run(random_inputs(Shape(1, 1, 64, 10 * 64, 32), torch.float16), library=one_kernel)
    assert one_kernel.counters()["barriers"] == 10 + 2


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_every_schedule_gives_the_same_bits(one_kernel: Library, schedule: Schedule) -> None:
    inputs = random_inputs(SMALL, torch.float16)
    expected = run(inputs, library=one_kernel)
    with one_kernel.schedule(schedule):
        assert torch.equal(run(inputs, library=one_kernel), expected)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name: str) -> None:
    mutant = Library(build([ONE_SIZE], mutation=Mutation(KERNEL, *MUTANTS[name])))
    inputs = random_inputs(SMALL, torch.float16)
    for schedule in SCHEDULES:
        with mutant.schedule(schedule):
            try:
                assert_as_accurate_as_torch(run(inputs, library=mutant), inputs)
            except (KernelFault, AssertionError):
                return
    pytest.fail("passed in every schedule")


def test_sanitizers_find_nothing() -> None:
    """Address and undefined behaviour, in a process of its own."""
    environment = sanitizer_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *sys.path])
    path = build([ONE_SIZE], sanitize=True)
    command = [sys.executable, "-m", "tests.kernels.attention.emulated", str(path)]
    result = subprocess.run(
        command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False
    )
    assert result.returncode == 0, result.stderr
