"""Interleaved timing of candidate denoisers at growing batch sizes.

On a GPU the clock is read when the device has finished, and what is timed is what the backend will
run: the replay of a graph, where the denoiser can be captured. Nothing of that has been executed on
a GPU yet.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch.utils._pytree import tree_map

from fastdiff.backends import Denoiser
from fastdiff.backends.cuda import synchronize
from fastdiff.compiling.failures import reason_of
from fastdiff.compiling.report import Candidate
from fastdiff.engine.cuda_device import CudaDevice
from fastdiff.engine.executor import CapturedGraph, Device
from fastdiff.errors import Unavailable
from fastdiff.networks import Network
from fastdiff.progress import Say, Stage

BATCHES = (1, 2, 4, 8, 16, 32)
_ROUNDS = 9
_CALLS_IF_SHORT, _SHORT_SECONDS = 5, 0.02
_PROMISING = 0.5  # of the best rate, to be measured again
_HOPELESS = 0.2  # of the best rate at the same batch size
_CLIMBING = 0.5  # of the budget; the rest is for taking turns
_UNFIT = 1.1  # times what a call of more rows takes
_STILL_CLIMBING = 0.8  # of the candidate's own best rate at smaller batches


@dataclass
class Trial:
    """A certified denoiser at one batch size, being measured.

    Attributes
    ----------
    candidate : Candidate
        Gets the median time.
    denoiser : Denoiser
    call : callable
        Bound to buffers for the batch.
    graph : CapturedGraph or None
        What `call` launches, captured.
    times : list of float
        Seconds.
    """

    candidate: Candidate
    denoiser: Denoiser
    call: Callable[[], object]
    graph: CapturedGraph | None = None
    times: list[float] = field(default_factory=list)

    @property
    def is_exact(self) -> bool:
        """Whether it computes in float32."""
        return self.candidate.precision == "float32"

    def quartile(self, share: float) -> float:
        """Return the time of which `share` of the runs took less; the median where none is kept."""
        return float(np.quantile(self.times, share)) if self.times else self.candidate.seconds

    @classmethod
    def of(
        cls,
        network: Network,
        denoiser: Denoiser,
        like: Candidate,
        batch: int,
        device: Device | None = None,
    ) -> Trial:
        """Bind buffers for `batch` rows, and warm up; `device` captures, if there is one."""
        x, t, conditioning = tree_map(lambda v: v.to(denoiser.device), network.example(batch))
        shape = (batch, denoiser.output_channels, *x.shape[2:])
        out = torch.empty(shape, dtype=denoiser.output_dtype, device=denoiser.device)
        call = denoiser.bind(x.to(denoiser.input_dtype), t, conditioning, out)
        call()
        synchronize(denoiser.device)
        candidate = replace(like, batch=batch, chosen_from=None)
        return cls(candidate, denoiser, call, _captured(denoiser, call, device))

    def measure(self) -> None:
        """Time a run, or a few when they are so short that one disturbance would decide."""
        run = self.call if self.graph is None else self.graph.replay
        deadline = time.perf_counter() + _SHORT_SECONDS
        for _ in range(_CALLS_IF_SHORT):
            begin = time.perf_counter()
            run()
            synchronize(self.denoiser.device)
            end = time.perf_counter()
            self.times.append(end - begin)
            if end > deadline:
                break
        self.candidate.seconds = statistics.median(self.times)

    def measure_again(self) -> None:
        """Measure anew, and keep the quicker of the two: what disturbs a measurement adds to it."""
        before, self.times = self.times, []
        self.measure()
        if statistics.median(before) < self.candidate.seconds:
            self.times = before
            self.candidate.seconds = statistics.median(before)


def measure(
    network: Network,
    passed: list[tuple[Denoiser, Candidate]],
    batches: tuple[int, ...],
    budget_seconds: float,
    say: Say,
) -> list[Trial]:
    """Measure every candidate at growing batch sizes, then the promising ones in turns.

    One whose rows couple is measured with one row. One that fails at a size stays with smaller
    ones, and is refused if there are none. A call that took longer than one of more rows of the
    same denoiser was disturbed, and is measured again. The budget is kept as far as the smallest
    size of every candidate, one round of turns and what is measured again allow.

    Raises
    ------
    Unavailable
        No candidate can evaluate the smallest size.
    """
    begin = time.perf_counter()
    deadline = begin + budget_seconds
    devices = {d.device: CudaDevice(d.device) for d, _ in passed if d.device.type == "cuda"}
    trials = _climb(network, passed, batches, begin + _CLIMBING * budget_seconds, say, devices)
    for trial in _unfit(trials):
        trial.measure_again()
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
    for trial in _unfit(trials):
        trial.measure_again()
    return trials


def _unfit(trials: list[Trial]) -> list[Trial]:
    """Return the trials that took longer than calls of the same denoiser with more rows."""
    return [
        trial
        for trial in trials
        if any(
            trial.candidate.seconds > _UNFIT * other.candidate.seconds
            for other in trials
            if other.denoiser is trial.denoiser and other.candidate.batch > trial.candidate.batch
        )
    ]


def _climb(
    network: Network,
    passed: list[tuple[Denoiser, Candidate]],
    batches: tuple[int, ...],
    deadline: float,
    say: Say,
    devices: Mapping[torch.device, Device],
) -> list[Trial]:
    """Measure everything once at each batch size, all candidates at one size before the next.

    A candidate stops where a larger batch no longer helps it or fails, or where it is hopelessly
    behind, both by the better of two measurements. No size is begun that would miss the deadline
    if it took as long as the last one.
    """
    trials: list[Trial] = []
    climbing, took = list(passed), 0.0
    best = dict.fromkeys((denoiser for denoiser, _ in passed), 0.0)
    for index, batch in enumerate(batches):
        begin = time.perf_counter()
        if trials and begin + took > deadline:
            break
        total = len(trials) + len(climbing) * (len(batches) - index)
        here: list[Trial] = []
        for denoiser, candidate in climbing:
            say(_stage(candidate, batch, len(trials) + len(here), total, deadline))
            rows = 1 if candidate.coupled else batch
            try:
                trial = Trial.of(network, denoiser, candidate, rows, devices.get(denoiser.device))
                trial.measure()
            except Exception as error:  # of one backend, and the others may serve
                reason = reason_of(error, f"{candidate.name}, {rows} rows in one call,")
                candidate.refusal = None if best[denoiser] else reason
                continue
            here.append(trial)
        if not trials and not here:
            reasons = "; ".join(f"{c.name}: {c.refusal}" for _, c in climbing)
            raise Unavailable(f"no backend can evaluate {batch} rows in one call: {reasons}")
        trials += here
        top = max((trial.candidate.rows_per_second for trial in here), default=0.0)
        goes_on = {t.denoiser for t in here if _goes_on(t, best[t.denoiser], top)}
        for trial in here:
            own = best[trial.denoiser]
            best[trial.denoiser] = max(own, trial.candidate.rows_per_second)
        climbing = [pair for pair in climbing if pair[0] in goes_on]
        took = time.perf_counter() - begin
    return trials


def _goes_on(trial: Trial, own_best: float, best: float) -> bool:
    """Whether a larger batch is worth a look, by a second measurement if the first says no."""
    candidate, enough = trial.candidate, max(_STILL_CLIMBING * own_best, _HOPELESS * best)
    if candidate.coupled:
        return False
    if candidate.rows_per_second < enough:
        trial.measure_again()
    return candidate.rows_per_second >= enough


def _captured(
    denoiser: Denoiser, call: Callable[[], object], device: Device | None
) -> CapturedGraph | None:
    """Return the graph of `call` that `device` replays; None where the engine uses none either."""
    declined = os.environ.get("FASTDIFF_GRAPHS") == "0"
    if device is None or declined or denoiser.eager_because is not None:
        return None

    def work() -> None:
        call()

    try:
        return device.capture(work, device.stream())
    except Exception:  # whatever it is: the engine will meet it again, and tell
        return None


def _stage(candidate: Candidate, batch: int, done: int, total: int, deadline: float) -> Stage:
    text = f"measuring {candidate.name}, {batch} row{'s' if batch > 1 else ''}"
    return Stage(text, done, total, deadline - time.perf_counter())
