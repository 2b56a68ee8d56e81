"""Choosing engine, precision and batch size by measurement."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fastdiff.denoisers import (
    ENGINES,
    Denoiser,
    build_denoiser,
    by_size,
    get_engine,
    kind_of,
    reference_denoiser,
    trim,
)
from fastdiff.denoisers.base import DTYPES, PRECISIONS, Engine
from fastdiff.denoisers.precision import in_hardware
from fastdiff.errors import AccuracyWarning, FastdiffError, InvalidArgument, Unavailable
from fastdiff.exporting import Network, export_onnx, first_line
from fastdiff.runtime.calibration import with_samples
from fastdiff.runtime.certificate import Trajectory, certify, reference_trajectory
from fastdiff.runtime.choices import Choices
from fastdiff.runtime.compiled import Compiled, Workspace, give_back_memory, without_weights
from fastdiff.runtime.layout import best_batch
from fastdiff.runtime.machine import describe_machine
from fastdiff.runtime.measuring import BATCHES, Trial, measure
from fastdiff.runtime.progress import Say, Stage
from fastdiff.runtime.report import Candidate, Report
from fastdiff.sampling import Schedule

_LOW_PRECISION_GAIN = 1.1
_SECOND_ENGINE_GAIN = 1.1  # what another engine must gain to earn the memory of its weights
_MOST_ROWS = 256  # row counts up to here decide which batch sizes are kept
_QUICK_SECONDS = 0.01  # of an evaluation; one in software may take 100 times as long


def tune(
    network: Network,
    schedule: Schedule,
    choices: Choices,
    say: Say,
    reference: Trajectory | None = None,
) -> Compiled:
    """Measure the usable engines, interleaved, and choose the fastest that passes its certificate.

    Parameters
    ----------
    choices : Choices
        What the caller decided.
    say : callable
        Told what is running.
    reference : Trajectory, optional
        What the float32 model answers; without it, the torch module or the given file is asked.

    Raises
    ------
    Unavailable
        An explicit choice cannot run or does not pass here, or nothing does.
    """
    pairs = _pairs(choices)
    software, seconds_each = choices.precision != "auto", 0.0
    if reference is None:
        say(Stage("reference trajectory in float32"))
        plain = reference_denoiser(network)
        begin = time.perf_counter()
        reference = reference_trajectory(network, plain, schedule)
        seconds_each = (time.perf_counter() - begin) / len(reference.outputs)
        software = software or seconds_each < _QUICK_SECONDS
        if choices.precision == "int8":
            say(Stage("ranges of activations along another trajectory"))
            network = with_samples(network, plain, schedule)
        del plain  # and its copy of the weights
    workspace = Workspace()
    path = workspace.path / "denoiser.onnx"
    preparation = _Preparation(network, reference, path, choices.verify, software)
    refused: list[Candidate] = []
    passed: list[tuple[Denoiser, Candidate]] = []
    for done, (engine, precision) in enumerate(pairs):
        say(Stage(f"preparing {engine} {precision}", done, len(pairs)))
        denoiser, candidate = preparation.prepare(engine, precision)
        if denoiser is None:
            refused.append(candidate)
        else:
            passed.append((denoiser, candidate))
    if not passed:
        raise Unavailable(
            "no engine can run this model as asked: "
            + "; ".join(f"{c.name}: {c.refusal}" for c in refused)
        )
    trials = measure(
        network, passed, _batches(network, choices), choices.budget_seconds(seconds_each), say
    )
    denoiser, seconds = _choose(trials)
    measured = sorted((trial.candidate for trial in trials), key=_place)
    report = Report(network.name, describe_machine(), measured + sorted(refused, key=_place))
    del passed, trials
    trim(denoiser, seconds)
    network = without_weights(preparation.network)
    give_back_memory()
    return Compiled(network, schedule, reference, denoiser, seconds, report, workspace)


def _batches(network: Network, choices: Choices) -> tuple[int, ...]:
    """Return the numbers of rows per call to measure."""
    fixed = network.batch or choices.max_batch
    if fixed is None:
        return BATCHES
    if choices.max_batch not in {None, fixed}:
        raise InvalidArgument(
            f"max_batch: every call of {network.name} takes {fixed} rows, got {choices.max_batch}"
        )
    return (fixed,)


def _choose(trials: list[Trial]) -> tuple[Denoiser, dict[int, float]]:
    """Take the denoiser with the best rate, and for each number of rows the best batch size.

    At batch sizes where another engine of its kind is clearly faster, that one serves.
    """
    best = max(trials, key=lambda trial: _merit(trial.candidate)).denoiser
    kind = kind_of(best)
    fastest: dict[int, tuple[float, Trial]] = {}
    for trial in trials:
        own = trial.denoiser
        cost = trial.candidate.seconds * (1.0 if own is best else _SECOND_ENGINE_GAIN)
        size = trial.candidate.batch
        if kind_of(own) == kind and (size not in fastest or cost < fastest[size][0]):
            fastest[size] = cost, trial
    sizes = {size: trial for size, (_, trial) in fastest.items()}
    seconds = {size: trial.candidate.seconds for size, trial in sizes.items()}
    for rows in range(1, _MOST_ROWS + 1):
        candidate = sizes[best_batch(seconds, rows)].candidate
        candidate.chosen_from = candidate.chosen_from or rows
    used = {size: trial for size, trial in sizes.items() if trial.candidate.chosen_from}
    denoiser = by_size({size: trial.denoiser for size, trial in used.items()})
    return denoiser, {size: seconds[size] for size in used}


def _merit(candidate: Candidate) -> float:
    """Return the rate, less what a precision below float32 must gain to earn its error."""
    exact = candidate.precision == "float32"
    return candidate.rows_per_second / (1.0 if exact else _LOW_PRECISION_GAIN)


def _pairs(choices: Choices) -> list[tuple[str, str]]:
    """Return the engines and precisions to look at, the exact ones first."""
    backend, precision = choices.backend, choices.precision
    engines = (
        [
            name
            for name, engine in ENGINES.items()
            if engine.status().usable and (choices.tune == "full" or not engine.slow_to_build)
        ]
        if backend == "auto"
        else [get_engine(backend).name]
    )
    pairs = [
        (name, kind)
        for kind in (DTYPES if precision == "auto" else [precision])
        for name in engines
        if kind in ENGINES[name].precisions
    ]
    if not pairs:
        raise Unavailable(
            f"backend {backend!r} has no precision {precision!r}; "
            f"it has: {', '.join(ENGINES[engines[0]].precisions)}"
        )
    return pairs


def _place(candidate: Candidate) -> tuple[int, int, int]:
    """Return the order of a report's rows."""
    engine = list(ENGINES).index(candidate.engine)
    return engine, PRECISIONS.index(candidate.precision), candidate.batch


@dataclass
class _Preparation:
    """Builds and certifies candidates, one after the other.

    Attributes
    ----------
    network : Network
        With its file, once an engine that reads ONNX has asked for it.
    reference : Trajectory
    path : Path
        Where that file goes.
    verify : str
    software : bool
        Whether to try precisions that the machine computes in software only.
    """

    network: Network
    reference: Trajectory
    path: Path
    verify: str
    software: bool
    _export_error: FastdiffError | None = None

    def prepare(self, engine: str, precision: str) -> tuple[Denoiser | None, Candidate]:
        """Build and certify one candidate; a refused one is None, with the reason."""
        candidate = Candidate(engine, precision)
        try:
            if self._source(ENGINES[engine]) == "onnx":
                self._require_file()
            else:
                self.network.require_module()
                self._require_hardware(ENGINES[engine].device, precision)
            denoiser = build_denoiser(engine, self.network, precision)
            if self.verify != "off":
                self._certify(denoiser, candidate)
        except (FastdiffError, RuntimeError) as error:  # torch raises RuntimeError
            candidate.refusal = first_line(error)
        return (None if candidate.refusal else denoiser), candidate

    def _require_file(self) -> None:
        """Export the network, once, whether that succeeds or not."""
        if self._export_error is not None:
            raise self._export_error
        if self.network.onnx is None:
            try:
                self.network = replace(self.network, onnx=export_onnx(self.network, self.path))
            except FastdiffError as error:
                self._export_error = error
                raise

    def _source(self, engine: Engine) -> str:
        """Return what an engine starts from."""
        there = [s for s in engine.sources if s == "onnx" or self.network.module is not None]
        return (there or engine.sources)[0]

    def _require_hardware(self, device: torch.device, precision: str) -> None:
        if not self.software and not in_hardware(precision, device):
            processor = "GPU" if device.type == "cuda" else "CPU"
            raise Unavailable(
                f"this {processor} computes {precision} in software only, which is slow; "
                f"precision={precision!r} tries it"
            )

    def _certify(self, denoiser: Denoiser, candidate: Candidate) -> None:
        certificate = candidate.certificate = certify(denoiser, self.reference)
        if certificate.refusal is not None and self.verify == "warn":
            warning = f"{candidate.name} is kept although {certificate.refusal}"
            warnings.warn(warning, AccuracyWarning, stacklevel=2)
        else:
            candidate.refusal = certificate.refusal
