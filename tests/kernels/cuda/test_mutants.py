"""Kernels with one mistake each: the checks of this folder catch every one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch
from emulated_cuda import emulated_cuda
from emulator import ROOT, SCHEDULES, Library, Mutation

from fastdiff.errors import Unavailable
from fastdiff.kernels.noise import reference
from fastdiff.kernels.noise.cuda import fill_normal
from fastdiff.kernels.step.cuda import gather

from ..batches import random_batch, run_reference  # noqa: TID252
from .running import records, run_cuda

SOURCES = ROOT / "csrc" / "cuda"


def step_is_right() -> bool:
    """Several tables, sizes and alignments; first with a NaN in the first block of a row."""
    for seed, n, shift in ((0, 64, 0), (1, 123, 0), (2, 2051, 0), (3, 64, 1), (4, 68, 0)):
        batch = random_batch(seed, rows=3, n=n)
        batch = replace(batch, output=np.ascontiguousarray(batch.output[:, : 2 * n]))
        batch.table["dst"] = [1, 2, 4]
        batch.table["x"][:, [1, 7]] = 0, 0.5
        batch.table["h"][:, 1] = 0
        batch.history[0] = np.nan
        batch.rows["table_row"] = [2, 0, 1]
        batch.rows["slot"][2] = -1
        flags = torch.full((3,), 9, dtype=torch.uint8)
        unfit = replace(batch, state=batch.state.copy())
        unfit.state[batch.rows["slot"][1], 0] = np.nan
        if run_cuda(unfit, shift=shift, flags=flags).flags.tolist() != [0, 1, 9]:
            return False
        got = run_cuda(batch, shift=shift, flags=flags)
        if got.flags.tolist() != [0, 0, 9]:
            return False
        want = run_reference(replace(batch, rows=batch.rows[:2]), np.float32)
        for name in ("state", "history", "denoised", "next_input"):
            if not np.array_equal(getattr(got, name), getattr(want, name), equal_nan=True):
                return False
    return True


def gather_is_right() -> bool:
    batch = random_batch(5, rows=3, n=1)
    batch.rows["cond"], batch.rows["uncond"] = [0, 1, 2], [3, -1, 4]
    batch.rows["slot"] = [3, -1, 0]
    batch.rows["table_row"] = [2, 1, 0]
    batch.table["t"] = [1, 2, 3]
    next_input = torch.randn(5, 37)
    x, t = torch.full((5, 37), 9.0), torch.full((5,), 9.0)
    gather(records(batch.table), records(batch.rows), next_input, x, t)
    nine = torch.full((37,), 9.0)
    want = torch.stack([next_input[3], nine, next_input[0], next_input[3], next_input[0]])
    return torch.equal(x, want) and t.tolist() == [3, 9, 1, 3, 1]


def noise_is_right() -> bool:
    for n, first in ((64, 0), (63, 0), (600, 5)):
        out = torch.full((3, n), torch.nan)
        fill_normal(out, torch.arange(3), torch.arange(3), 2, 1, 1.0, first)
        want = np.stack([reference.normal(i, i, 2, 1, first, n) for i in range(3)])
        if not np.array_equal(out.numpy(), want):
            return False
    return True


class Mutant(NamedTuple):
    file: str
    old: str
    new: str
    is_right: Callable[[], bool]


MUTANTS = {
    "stale step index": Mutant("step.cu", "a.table[row.table_row]", "a.table[0]", step_is_right),
    "stale draw": Mutant("step.cu", "row.image, row.draw", "row.image, 0", step_is_right),
    "padding is worked on": Mutant(
        "step.cu", "if (row.slot < 0) return;", "if (row.slot < -1) return;", step_is_right
    ),
    "state and history swapped": Mutant(
        "step.cu",
        "  store(rows.state, span, next);\n",
        "  store(rows.state, span, kept);\n",
        step_is_right,
    ),
    "term not counted is multiplied": Mutant(
        "step.cu", "if (!counted.history[j]) continue;", "", step_is_right
    ),
    "history slot off by one": Mutant(
        "step.cu", "(table.dst - 1) * history_stride", "table.dst * history_stride", step_is_right
    ),
    "noise of the first block everywhere": Mutant(
        "step.cu", "uint64_t(first + k) / 4", "uint64_t(k) / 4", step_is_right
    ),
    "flag of the last block only": Mutant(
        "step.cu", "= (before + found) >> 16 != 0", "= found >> 16 != 0", step_is_right
    ),
    "ticket not returned": Mutant("step.cu", "  a.tickets[blockIdx.y] = 0;\n", "", step_is_right),
    "flag before the last block": Mutant(
        "step.cu",
        "  if ((before & 0xffffu) + 1 < gridDim.x) return;\n",
        "",
        step_is_right,
    ),
    "alignment not looked at": Mutant(
        "grid.cuh", "is_aligned && live == kVector", "live == kVector", step_is_right
    ),
    "tail taken for whole": Mutant(
        "grid.cuh", "is_aligned && live == kVector", "is_aligned", step_is_right
    ),
    "tail mask off by one": Mutant(
        "grid.cuh", "rest < kVector ? int(rest)", "rest < kVector ? int(rest) - 1", step_is_right
    ),
    "gather of the row, not of its slot": Mutant(
        "gather.cu", "row.slot * a.elements", "blockIdx.y * a.elements", gather_is_right
    ),
    "gather without its tail": Mutant(
        "gather.cu", "i = wide * kWide + thread;", "i = elements;", gather_is_right
    ),
    "gather of a stale time": Mutant(
        "gather.cu", "a.table[row.table_row].t", "a.table[0].t", gather_is_right
    ),
    "noise of whole quads only": Mutant(
        "noise.cu", "a.elements + 3) / 4", "a.elements) / 4", noise_is_right
    ),
    "noise from the wrong element": Mutant("noise.cu", "4 * q - skipped", "4 * q", noise_is_right),
    "noise of one row in all": Mutant(
        "noise.cu", "a.seeds[blockIdx.y]", "a.seeds[0]", noise_is_right
    ),
}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def passes(library: Library, is_right: Callable[[], bool]) -> bool:
    """Whether a kernel is right in every order of threads; faults and stray writes are not."""
    for schedule in SCHEDULES[::3]:
        with library.schedule(schedule):
            try:
                if not is_right():
                    return False
            except (Unavailable, AssertionError):
                return False
    return True


@pytest.mark.parametrize("is_right", [step_is_right, gather_is_right, noise_is_right])
def test_the_kernels_themselves_pass(emulated: Library, is_right: Callable[[], bool]) -> None:
    assert passes(emulated, is_right)


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    mutation = Mutation(SOURCES / mutant.file, mutant.old, mutant.new)
    with emulated_cuda(mutation) as library:
        assert not passes(library, mutant.is_right)
