"""Choosing engine, precision and batch size by measurement."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import compress

import torch

from fastdiff.denoisers import ENGINES, Denoiser, get_engine
from fastdiff.denoisers.base import DTYPES
from fastdiff.errors import FastdiffError, InvalidArgument, Unavailable, UnknownName
from fastdiff.exporting import Network
from fastdiff.kernels import active_level
from fastdiff.runtime.certificate import Trajectory, certify, reference_trajectory
from fastdiff.runtime.report import Candidate, Report
from fastdiff.sampling import Schedule

BATCHES = (1, 2, 4, 8, 16, 32)
BUDGET_SECONDS = 3.0
_MIN_ROUNDS, _MAX_ROUNDS = 3, 9
_CALLS_IF_SHORT, _SHORT_SECONDS = 5, 0.02
_PROMISING = 0.5  # of the best rate, to be measured again
_HOPELESS = 0.1  # of the best rate at the same batch size
_STILL_CLIMBING = 0.8  # of the engine's own best rate at smaller batches
_LOW_PRECISION_GAIN = 1.1

Say = Callable[[str], None]


@dataclass
class _Trial:
    """A candidate being measured."""

    candidate: Candidate
    denoiser: Denoiser
    call: Callable[[], object]
    times: list[float] = field(default_factory=list)

    def measure(self) -> None:
        """Time a call, or a few when they are so short that one disturbance would decide."""
        deadline = time.perf_counter() + _SHORT_SECONDS
        for _ in range(_CALLS_IF_SHORT):
            begin = time.perf_counter()
            self.call()
            end = time.perf_counter()
            self.times.append(end - begin)
            if end > deadline:
                break
        self.candidate.seconds = statistics.median(self.times)


def tune(
    network: Network,
    schedule: Schedule,
    backend: str,
    precision: str,
    max_batch: int | None,
    say: Say,
) -> tuple[Denoiser, Report]:
    """Measure the usable engines, interleaved, and return the fastest that passes its certificate.

    Parameters
    ----------
    backend, precision : str
        ``"auto"``, or a name that leaves no choice.
    max_batch : int or None
        Fixes the rows per call; None measures `BATCHES`.
    say : callable
        Told what is running.

    Raises
    ------
    UnknownName, Unavailable
        An explicit choice does not exist, or cannot run or does not pass here.
    """
    pairs = _pairs(backend, precision)
    say("reference trajectory in float32")
    reference = ENGINES["eager"].build(network, "float32")
    expected = reference_trajectory(network, reference, schedule)
    candidates: list[Candidate] = []
    passed: list[tuple[Denoiser, Candidate]] = []
    for engine, kind in pairs:
        say(f"preparing {engine} {kind}")
        denoiser, candidate = _prepare(network, engine, kind, reference, expected)
        if denoiser is None:
            candidates.append(candidate)
        else:
            passed.append((denoiser, candidate))
    if not passed:
        raise Unavailable(
            "no engine can run this model as asked: "
            + "; ".join(f"{c.engine} {c.precision}: {c.refusal}" for c in candidates)
        )
    say("measuring " + ", ".join(f"{c.engine} {c.precision}" for _, c in passed))
    trials = _measure(network, passed, max_batch)
    best = max(trials, key=lambda trial: _merit(trial.candidate))
    best.candidate.chosen = True
    order = {(c.engine, c.precision): i for i, (_, c) in enumerate(passed)}
    measured = sorted(
        (trial.candidate for trial in trials),
        key=lambda c: (order[c.engine, c.precision], c.batch),
    )
    machine = f"{torch.get_num_threads()} threads, {active_level()} kernels"
    return best.denoiser, Report(network.name, machine, measured + candidates)


def _merit(candidate: Candidate) -> float:
    """Return the rate, less what a precision below float32 must gain to earn its error."""
    exact = candidate.precision == "float32"
    return candidate.rows_per_second / (1.0 if exact else _LOW_PRECISION_GAIN)


def _pairs(backend: str, precision: str) -> list[tuple[str, str]]:
    if precision != "auto" and precision not in DTYPES:
        raise UnknownName("precision", precision, ["auto", *DTYPES])
    engines = (
        [name for name, engine in ENGINES.items() if engine.status().usable]
        if backend == "auto"
        else [get_engine(backend).name]
    )
    pairs = [
        (name, kind)
        for name in engines
        for kind in ENGINES[name].precisions
        if precision in {"auto", kind}
    ]
    if not pairs:
        raise Unavailable(
            f"backend {backend!r} has no precision {precision!r}; "
            f"it has: {', '.join(ENGINES[engines[0]].precisions)}"
        )
    return pairs


def _prepare(
    network: Network, engine: str, precision: str, reference: Denoiser, expected: Trajectory
) -> tuple[Denoiser | None, Candidate]:
    """Build and certify one candidate; the reason is in it when it is refused."""
    candidate = Candidate(engine, precision)
    try:
        is_reference = (engine, precision) == (reference.engine, reference.precision)
        denoiser = reference if is_reference else get_engine(engine).build(network, precision)
        candidate.certificate = certify(denoiser, expected)
    except FastdiffError as error:
        candidate.refusal = str(error)
        return None, candidate
    except RuntimeError as error:  # torch: an operator that this precision does not have
        candidate.refusal = str(error).strip().splitlines()[0]
        return None, candidate
    candidate.refusal = candidate.certificate.refusal
    return (None if candidate.refusal else denoiser), candidate


def _trial(network: Network, denoiser: Denoiser, like: Candidate, batch: int) -> _Trial:
    x, t, conditioning = network.example(batch)
    shape = (batch, denoiser.output_channels, *x.shape[2:])
    out = torch.empty(shape, dtype=denoiser.output_dtype)
    call = denoiser.bind(x.to(denoiser.input_dtype), t, conditioning, out)
    candidate = Candidate(like.engine, like.precision, batch, certificate=like.certificate)
    call()
    return _Trial(candidate, denoiser, call)


def _measure(
    network: Network, passed: list[tuple[Denoiser, Candidate]], max_batch: int | None
) -> list[_Trial]:
    """Measure every candidate at growing batch sizes, then the promising ones in turns."""
    if max_batch is not None and max_batch < 1:
        raise InvalidArgument(f"max_batch: expected at least 1, got {max_batch}")
    deadline = time.perf_counter() + BUDGET_SECONDS
    trials = _climb(network, passed, (max_batch,) if max_batch else BATCHES, deadline)
    fastest = max(trial.candidate.rows_per_second for trial in trials)
    promising = [t for t in trials if t.candidate.rows_per_second >= _PROMISING * fastest]
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
) -> list[_Trial]:
    """Call everything once at each batch size, all engines at one size before the next.

    An engine stops where a larger batch no longer helps it, or where it is hopelessly behind; no
    size is begun after the deadline.
    """
    trials: list[_Trial] = []
    climbing, best = list(passed), [0.0] * len(passed)
    for batch in batches:
        if trials and time.perf_counter() > deadline:
            break
        rates = []
        for denoiser, candidate in climbing:
            trial = _trial(network, denoiser, candidate, batch)
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
