"""Interleaved timing of candidate denoisers at growing batch sizes."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress

import torch

from fastdiff.denoisers import Denoiser
from fastdiff.exporting import Network
from fastdiff.runtime.progress import Say, Stage
from fastdiff.runtime.report import Candidate

BATCHES = (1, 2, 4, 8, 16, 32)
_ROUNDS = 9
_CALLS_IF_SHORT, _SHORT_SECONDS = 5, 0.02
_PROMISING = 0.5  # of the best rate, to be measured again
_HOPELESS = 0.2  # of the best rate at the same batch size
_CLIMBING = 0.5  # of the budget; the rest is for taking turns
_STILL_CLIMBING = 0.8  # of the candidate's own best rate at smaller batches


@dataclass
class Trial:
    """A certified denoiser at one batch size, being measured."""

    candidate: Candidate
    denoiser: Denoiser
    call: Callable[[], object]
    times: list[float] = field(default_factory=list)

    @classmethod
    def of(cls, network: Network, denoiser: Denoiser, like: Candidate, batch: int) -> Trial:
        """Bind buffers for `batch` rows, and warm up."""
        x, t, conditioning = network.example(batch)
        shape = (batch, denoiser.output_channels, *x.shape[2:])
        out = torch.empty(shape, dtype=denoiser.output_dtype)
        call = denoiser.bind(x.to(denoiser.input_dtype), t, conditioning, out)
        call()
        candidate = Candidate(like.engine, like.precision, batch, certificate=like.certificate)
        return cls(candidate, denoiser, call)

    def measure(self) -> None:
        """Time a run, or a few when they are so short that one disturbance would decide."""
        deadline = time.perf_counter() + _SHORT_SECONDS
        for _ in range(_CALLS_IF_SHORT):
            begin = time.perf_counter()
            self.call()
            end = time.perf_counter()
            self.times.append(end - begin)
            if end > deadline:
                break
        self.candidate.seconds = statistics.median(self.times)


def measure(
    network: Network,
    passed: list[tuple[Denoiser, Candidate]],
    batches: tuple[int, ...],
    budget_seconds: float,
    say: Say,
) -> list[Trial]:
    """Measure every candidate at growing batch sizes, then the promising ones in turns.

    The budget is kept as far as the smallest size of every candidate and one round of turns allow.
    """
    begin = time.perf_counter()
    deadline = begin + budget_seconds
    trials = _climb(network, passed, batches, begin + _CLIMBING * budget_seconds, say)
    fastest: dict[int, float] = {}
    for trial in trials:
        c = trial.candidate
        fastest[c.batch] = max(fastest.get(c.batch, 0.0), c.rows_per_second)
    promising = [
        t for t in trials if t.candidate.rows_per_second >= _PROMISING * fastest[t.candidate.batch]
    ]
    total, took = _ROUNDS * len(promising), 0.0
    for turn in range(_ROUNDS):
        begin = time.perf_counter()
        if turn > 0 and begin + took > deadline:
            break
        for done, trial in enumerate(promising, turn * len(promising)):
            say(_stage(trial.candidate, trial.candidate.batch, done, total, deadline))
            trial.measure()
        took = time.perf_counter() - begin
    return trials


def _climb(
    network: Network,
    passed: list[tuple[Denoiser, Candidate]],
    batches: tuple[int, ...],
    deadline: float,
    say: Say,
) -> list[Trial]:
    """Measure everything once at each batch size, all candidates at one size before the next.

    A candidate stops where a larger batch no longer helps it, or where it is hopelessly behind. No
    size is begun that would miss the deadline if it took as long as the last one.
    """
    trials: list[Trial] = []
    climbing, best, took = list(passed), [0.0] * len(passed), 0.0
    for index, batch in enumerate(batches):
        begin = time.perf_counter()
        if trials and begin + took > deadline:
            break
        total = len(trials) + len(climbing) * (len(batches) - index)
        rates = []
        for denoiser, candidate in climbing:
            say(_stage(candidate, batch, len(trials), total, deadline))
            trial = Trial.of(network, denoiser, candidate, batch)
            trial.measure()
            trials.append(trial)
            rates.append(trial.candidate.rows_per_second)
        goes_on = [
            rate >= _STILL_CLIMBING * own and rate >= _HOPELESS * max(rates)
            for rate, own in zip(rates, best, strict=True)
        ]
        best = [max(pair) for pair in compress(zip(rates, best, strict=True), goes_on)]
        climbing = list(compress(climbing, goes_on))
        took = time.perf_counter() - begin
    return trials


def _stage(candidate: Candidate, batch: int, done: int, total: int, deadline: float) -> Stage:
    text = f"measuring {candidate.name}, {batch} row{'s' if batch > 1 else ''}"
    return Stage(text, done, total, deadline - time.perf_counter())
