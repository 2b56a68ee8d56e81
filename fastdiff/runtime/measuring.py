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
from fastdiff.runtime.report import Candidate

BATCHES = (1, 2, 4, 8, 16, 32)
_MIN_ROUNDS, _MAX_ROUNDS = 3, 9
_CALLS_IF_SHORT, _SHORT_SECONDS = 5, 0.02
_PROMISING = 0.5  # of the best rate, to be measured again
_HOPELESS = 0.2  # of the best rate at the same batch size
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
) -> list[Trial]:
    """Measure every candidate at growing batch sizes, then the promising ones in turns."""
    deadline = time.perf_counter() + budget_seconds
    trials = _climb(network, passed, batches, deadline)
    fastest: dict[int, float] = {}
    for trial in trials:
        c = trial.candidate
        fastest[c.batch] = max(fastest.get(c.batch, 0.0), c.rows_per_second)
    promising = [
        t for t in trials if t.candidate.rows_per_second >= _PROMISING * fastest[t.candidate.batch]
    ]
    for done in range(_MAX_ROUNDS):
        if done >= _MIN_ROUNDS and time.perf_counter() > deadline:
            break
        for trial in promising:
            trial.measure()
    return trials


def _climb(
    network: Network,
    passed: list[tuple[Denoiser, Candidate]],
    batches: tuple[int, ...],
    deadline: float,
) -> list[Trial]:
    """Measure everything once at each batch size, all candidates at one size before the next.

    A candidate stops where a larger batch no longer helps it, or where it is hopelessly behind; no
    size is begun after the deadline.
    """
    trials: list[Trial] = []
    climbing, best = list(passed), [0.0] * len(passed)
    for batch in batches:
        if trials and time.perf_counter() > deadline:
            break
        rates = []
        for denoiser, candidate in climbing:
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
    return trials
