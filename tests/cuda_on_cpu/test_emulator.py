"""The emulator itself: what right kernels give, and that wrong ones are caught."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
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
from numpy.typing import NDArray

PIPELINES = ROOT / "tests" / "cuda_on_cpu" / "pipelines.cu"
INSTRUCTIONS = ROOT / "tests" / "cuda_on_cpu" / "instructions.cu"
RNG = np.random.default_rng(0)
VALUES = RNG.integers(-50, 50, (3, 4, 128)).astype(np.float32)  # sums of integers are exact
TILES = RNG.standard_normal((5, 128)).astype(np.float32)

BARRIERS = {
    "sums read before they are written": (
        "    __syncthreads();  // before the sums are read\n",
        "block_sums",
    ),
    "sums overwritten before they are read": (
        "    __syncthreads();  // before they are overwritten\n",
        "block_sums",
    ),
    "tile read before it has arrived": (
        "    __syncthreads();  // before the tile is read\n",
        "reverse_tiles",
    ),
    "tile loaded before the last is read": (
        "    __syncthreads();  // before its buffer is loaded again\n",
        "reverse_tiles",
    ),
    "no wait for the copy": ("      cp_async_wait<1>();\n", "reverse_tiles"),
}


@pytest.fixture(scope="module", params=["", "-DEMULATOR_UCONTEXT"], ids=["native", "ucontext"])
def library(request: pytest.FixtureRequest) -> Library:
    return Library(build([PIPELINES, INSTRUCTIONS], flags=[request.param] if request.param else []))


def block_sums_is_right(library: Library) -> bool:
    sums = np.full(3, np.nan, np.float32)
    library.call("launch_block_sums", VALUES, sums, 3, 4)
    return np.array_equal(sums, VALUES.sum((1, 2)))


def reverse_tiles_is_right(library: Library) -> bool:
    reversed_tiles = np.full_like(TILES, np.nan)
    try:
        library.call("launch_reverse_tiles", TILES, reversed_tiles, len(TILES))
    except KernelFault:
        return False
    return np.array_equal(reversed_tiles, TILES[:, ::-1])


RIGHT = {"block_sums": block_sums_is_right, "reverse_tiles": reverse_tiles_is_right}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_right_kernels_are_right_in_every_schedule(library: Library, schedule: Schedule) -> None:
    with library.schedule(schedule):
        for is_right in RIGHT.values():
            assert is_right(library)


@pytest.mark.parametrize("name", BARRIERS)
def test_every_missing_barrier_is_caught(name: str) -> None:
    line, kernel = BARRIERS[name]
    mutant = Library(build([PIPELINES], mutation=Mutation(PIPELINES, line, "")))
    results = []
    for schedule in SCHEDULES:
        with mutant.schedule(schedule):
            results.append(RIGHT[kernel](mutant))
    assert not all(results)


def test_mutations_must_match_exactly_once() -> None:
    with pytest.raises(ValueError, match=r"pipelines.cu holds \d+ times"):
        Mutation(PIPELINES, "__syncthreads", "").apply()


@pytest.mark.parametrize(
    ("which", "message"),
    list(
        enumerate(
            [
                r"touches shared memory outside of its array .*thread \(0, 0, 0\)",
                "wrote next to a shared array",
                "touches shared memory outside of its array",
                "touches shared memory outside of its array",
                r"deadlock: 32 threads wait.*__syncthreads .*instructions.cu:\d+.*__syncwarp",
                r"is at __syncthreads .* while thread 0 waits at __syncthreads .*\(16, 0, 0\)",
                "deadlock: 16 threads wait and 16 exited; thread 0 at __syncwarp",
                r"__shfl_sync .* reads lane \d+, which is not in the mask",
                "meets lane 0 of its warp at __shfl_sync .*, which came to __syncwarp",
                "exited with cp.async in flight",
                "cp.async of 16 bytes that are not aligned",
                "cp.async to memory that is not shared",
                r"touches memory at \(nil\)|0x0, where there is none",
                "ldmatrix .* of an unaligned row",
                "overflows its stack",
            ]
        )
    ),
)
def test_mistakes_are_reported(library: Library, which: int, message: str) -> None:
    with pytest.raises(KernelFault, match=message):
        library.call("launch_mistake", which, np.zeros(64, np.int32))
    assert block_sums_is_right(library)  # a fault leaves nothing behind


def test_blocks_have_at_most_1024_threads_and_227_kib(library: Library) -> None:
    for name, message in (("threads", "1 to 1024 threads, got 1025"), ("shared", "227 KiB")):
        with pytest.raises(KernelFault, match=message):
            library.call(f"launch_too_much_{name}")


def test_shuffles_stay_in_their_segments(library: Library) -> None:
    """Segments of 8 lanes; CUDA C++ Programming Guide, "Warp Shuffle Functions"."""
    got = np.zeros((32, 5), np.int32)
    library.call("launch_shuffles", got)
    for lane in range(32):
        segment, place = lane // 8 * 8, lane % 8
        assert got[lane].tolist() == [
            segment + 11 % 8,
            lane if (lane ^ 9) // 8 > lane // 8 else lane ^ 9,
            lane + 3 if place + 3 < 8 else lane,
            lane - 3 if place - 3 >= 0 else lane,
            1,
        ]


def halves(values: NDArray[np.float32], bfloat16: bool) -> NDArray[np.uint16]:
    dtype = torch.bfloat16 if bfloat16 else torch.float16
    bits = torch.from_numpy(values).to(dtype).view(torch.int16).numpy()
    return np.ascontiguousarray(bits).view(np.uint16)


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float16", "bfloat16"])
def test_product_layout_is_that_of_the_manual(library: Library, bfloat16: bool) -> None:
    """PTX ISA, "Matrix Fragments for mma.m16n8k16 with floating point type"."""
    a, b, c = (
        RNG.integers(-8, 8, shape).astype(np.float32) for shape in ((16, 16), (16, 8), (16, 8))
    )
    lane = np.arange(32)[:, None]
    group, thread = lane // 4, lane % 4
    i = np.arange(8)
    a_row = np.where((i < 2) | ((i >= 4) & (i < 6)), group, group + 8)
    a_column = thread * 2 + (i & 1) + np.where(i >= 4, 8, 0)
    i = np.arange(4)
    b_row = thread * 2 + (i & 1) + np.where(i >= 2, 8, 0)
    b_column = np.broadcast_to(group, b_row.shape)
    c_row, c_column = np.where(i < 2, group, group + 8), thread * 2 + (i & 1)

    d = np.ascontiguousarray(c[c_row, c_column])
    fragments = halves(a[a_row, a_column], bfloat16), halves(b[b_row, b_column], bfloat16)
    library.call("launch_raw_product", *fragments, d, int(bfloat16))
    np.testing.assert_array_equal(d, (a @ b + c)[c_row, c_column])


@pytest.mark.parametrize("bfloat16", [False, True], ids=["float16", "bfloat16"])
@pytest.mark.parametrize("schedule", SCHEDULES[::4], ids=str)
def test_product_through_matrix_loads(library: Library, bfloat16: bool, schedule: Schedule) -> None:
    a, b, d = (
        RNG.integers(-8, 8, shape).astype(np.float32) for shape in ((16, 16), (16, 8), (16, 8))
    )
    want = a @ b + d
    with library.schedule(schedule):
        library.call("launch_product", halves(a, bfloat16), halves(b, bfloat16), d, int(bfloat16))
    np.testing.assert_array_equal(d, want)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_matrix_load_layout_is_that_of_the_manual(
    library: Library, count: int, transposed: int
) -> None:
    """PTX ISA, ldmatrix: lane l gets row l / 4, elements 2 (l % 4) and the next, of each matrix."""
    matrices = RNG.integers(0, 2**16, (count, 8, 8)).astype(np.uint16)
    registers = np.zeros((32, count), np.uint32)
    library.counters()
    library.call("launch_load_matrices", matrices, registers, count, transposed)
    seen = matrices.transpose(0, 2, 1) if transposed else matrices
    pairs = seen.reshape(count, 32, 2).astype(np.uint32)
    np.testing.assert_array_equal(registers, (pairs[..., 0] | pairs[..., 1] << 16).T)
    assert library.counters()["matrix_loads"] == 1


@pytest.mark.parametrize(
    ("which", "message"),
    [(-1, ""), (0, "out of bounds"), (2, r"AddressSanitizer: SEGV .*instructions.cu:\d+")],
)
def test_sanitizers_see_through_fibers(which: int, message: str) -> None:
    """In a process of its own: the sanitizers end it at the first fault."""
    library = build([PIPELINES, INSTRUCTIONS], sanitize=True)
    code = (
        "import sys, numpy as np; from emulator import Library; from pathlib import Path\n"
        f"library = Library(Path({str(library)!r}))\n"
        "out, values = np.zeros(3, np.float32), np.ones((3, 4, 128), np.float32)\n"
        "library.call('launch_block_sums', values, out, 3, 4); assert (out == 512).all()\n"
        f"if {which} >= 0: library.call('launch_mistake', {which}, np.zeros(64, np.int32))\n"
    )
    environment = sanitizer_environment()
    environment["PYTHONPATH"] = str(Path(__file__).parents[1] / "support")
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    if not message:
        assert result.returncode == 0, result.stderr
    else:
        assert result.returncode != 0
        assert re.search(message, result.stderr), result.stderr
