from __future__ import annotations

import mmap
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fastdiff.kernels.noise.triton import fill_normal
from fastdiff.kernels.step.triton import gather, step

from ...batches import random_batch  # noqa: TID252
from .device import record_bytes
from .guarded import call_guarded, forbid, guarded

both_ends = pytest.mark.parametrize("at_end", [True, False])


def test_guards_catch_an_overrun() -> None:
    overrun = Path(__file__).with_name("overrun.py")
    result = subprocess.run([sys.executable, overrun], capture_output=True)
    assert result.returncode == -signal.SIGSEGV


@both_ends
def test_step_and_gather_stay_inside(at_end: bool) -> None:
    batch = random_batch(1, rows=2, n=63, output_dtype="float16")
    batch.rows["slot"] = [0, len(batch.state) - 1]
    batch.rows["cond"], batch.rows["uncond"] = [len(batch.output) - 1, 1], [0, 2]
    table, rows = record_bytes(batch.table), record_bytes(batch.rows)
    state = torch.from_numpy(batch.state)
    output = torch.from_numpy(batch.output).half()
    flags = torch.zeros(2, dtype=torch.uint8)
    history = torch.from_numpy(batch.history)
    call_guarded(
        step, table, rows, state, output, flags, history, state.half(), state, at_end=at_end
    )
    x = output[:, :63].contiguous()
    call_guarded(gather, table, rows, state.half(), x, x[:, 0].float(), at_end=at_end)


def test_history_that_does_not_count_is_not_touched() -> None:
    batch = random_batch(1, rows=2, n=mmap.PAGESIZE // 4)
    batch.table["dst"] = 3
    for name in ("x", "h"):
        batch.table[name][:, [1, 4]] = 0
    history = guarded(torch.from_numpy(batch.history), at_end=True)
    forbid(history[0])
    forbid(history[3])
    state, flags = torch.from_numpy(batch.state), torch.zeros(2, dtype=torch.uint8)
    table, rows = record_bytes(batch.table), record_bytes(batch.rows)
    step(table, rows, state, torch.from_numpy(batch.output), flags, history)
    assert flags.tolist() == [0, 0]


@both_ends
def test_noise_stays_inside(at_end: bool) -> None:
    words = torch.arange(2)
    call_guarded(fill_normal, torch.empty(2, 63), words, words, 0, 1, 1.0, 5, at_end=at_end)
