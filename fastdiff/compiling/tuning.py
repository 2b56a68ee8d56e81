"""Choosing backend, precision and batch size by measurement."""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from fastdiff.backends import (
    BACKENDS,
    Denoiser,
    build_denoiser,
    get_backend,
    reference_denoiser,
    row_by_row,
)
from fastdiff.backends.base import PRECISIONS, Backend
from fastdiff.compiling.calibration import with_samples
from fastdiff.compiling.certificate import certify
from fastdiff.compiling.choosing import choose_apart
from fastdiff.compiling.company import Company, Effect
from fastdiff.compiling.compiled import Compiled, Workspace, give_back_memory, without_weights
from fastdiff.compiling.failures import reason_of
from fastdiff.compiling.machine import describe_machine
from fastdiff.compiling.measuring import BATCHES, measure
from fastdiff.compiling.options import CompileOptions
from fastdiff.compiling.report import Candidate, Report
from fastdiff.compiling.trajectory import Trajectory, reference_trajectory
from fastdiff.errors import AccuracyWarning, FastdiffError, InvalidArgument, Unavailable
from fastdiff.exporting import export_onnx
from fastdiff.networks import Network
from fastdiff.networks.precision import DTYPES, in_hardware
from fastdiff.progress import Say, Stage
from fastdiff.sampling import Schedule

_QUICK_SECONDS = 0.01  # of an evaluation; one in software may take 100 times as long


def tune(
    network: Network,
    schedule: Schedule,
    choices: CompileOptions,
    say: Say,
    reference: Trajectory | None = None,
) -> Compiled:
    """Measure the usable backends, interleaved, and choose the fastest that passes its certificate.

    Parameters
    ----------
    choices : CompileOptions
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
    pairs, company = _pairs(choices), Company.of(network, schedule)
    software, seconds_each = choices.precision != "auto", 0.0
    if reference is None:
        say(Stage("reference trajectory in float32"))
        plain = company.apart(reference_denoiser(network))
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
    preparation = _Preparation(network, company, reference, path, choices.verify, software)
    refused: list[Candidate] = []
    passed: list[tuple[Denoiser, Candidate]] = []
    for done, (backend, precision) in enumerate(pairs):
        say(Stage(f"preparing {backend} {precision}", done, len(pairs)))
        denoiser, candidate = preparation.prepare(backend, precision)
        if denoiser is None:
            refused.append(candidate)
        else:
            passed.append((denoiser, candidate))
    if not passed:
        raise Unavailable(
            "no backend can run this model as asked: "
            + "; ".join(f"{c.name}: {c.refusal}" for c in refused)
        )
    trials = measure(
        network, passed, _batches(network, choices), choices.budget_seconds(seconds_each), say
    )
    denoiser, seconds, trials = choose_apart(trials, company, network)
    refused += [candidate for _, candidate in passed if candidate.refusal]
    measured = sorted((trial.candidate for trial in trials), key=_place)
    report = Report(network.name, describe_machine(), measured + sorted(refused, key=_place))
    del passed, trials
    denoiser.trim(seconds)
    network = without_weights(preparation.network)
    give_back_memory()
    return Compiled(network, schedule, reference, denoiser, seconds, report, workspace)


def _batches(network: Network, choices: CompileOptions) -> tuple[int, ...]:
    """Return the numbers of rows per call to measure."""
    fixed = network.batch or choices.max_batch
    if fixed is None:
        return BATCHES
    if choices.max_batch not in {None, fixed}:
        raise InvalidArgument(
            f"max_batch: every call of {network.name} takes {fixed} rows, got {choices.max_batch}"
        )
    network.require_memory(fixed)
    return (fixed,)


def _pairs(choices: CompileOptions) -> list[tuple[str, str]]:
    """Return the backends and precisions to look at, the exact ones first."""
    backend, precision = choices.backend, choices.precision
    backends = (
        [
            name
            for name, backend in BACKENDS.items()
            if backend.status().usable and (choices.tune == "full" or not backend.slow_to_build)
        ]
        if backend == "auto"
        else [get_backend(backend).name]
    )
    pairs = [
        (name, kind)
        for kind in (DTYPES if precision == "auto" else [precision])
        for name in backends
        if kind in BACKENDS[name].precisions
    ]
    if not pairs:
        raise Unavailable(
            f"backend {backend!r} has no precision {precision!r}; "
            f"it has: {', '.join(BACKENDS[backends[0]].precisions)}"
        )
    return pairs


def _place(candidate: Candidate) -> tuple[int, int, int]:
    """Return the order of a report's rows."""
    backend = list(BACKENDS).index(candidate.backend)
    return backend, PRECISIONS.index(candidate.precision), candidate.batch


@dataclass
class _Preparation:
    """Builds and certifies candidates, one after the other.

    Attributes
    ----------
    network : Network
        With its file, once a backend that reads ONNX has asked for it.
    company : Company
    reference : Trajectory
    path : Path
        Where that file goes.
    verify : str
    software : bool
        Whether to try precisions that the machine computes in software only.
    """

    network: Network
    company: Company
    reference: Trajectory
    path: Path
    verify: str
    software: bool
    _export_error: FastdiffError | None = None

    def prepare(self, backend: str, precision: str) -> tuple[Denoiser | None, Candidate]:
        """Build and certify one candidate; a refused one is None, with the reason."""
        candidate = Candidate(backend, precision)
        try:
            if self._source(BACKENDS[backend]) == "onnx":
                self._require_file()
            else:
                self.network.require_module()
                self._require_hardware(BACKENDS[backend].device, precision)
            denoiser = self._apart(build_denoiser(backend, self.network, precision), candidate)
            if self.verify != "off":
                self._certify(denoiser, candidate)
        except Exception as error:  # of one backend, and the others may serve
            candidate.refusal = reason_of(error, candidate.name)
        return (None if candidate.refusal else denoiser), candidate

    def _apart(self, denoiser: Denoiser, candidate: Candidate) -> Denoiser:
        """Return `denoiser`, made to evaluate its rows one by one if they couple."""
        effect = self.company.effect(denoiser)
        candidate.coupled = effect is Effect.COUPLED
        if effect is Effect.UNSTEADY and self.verify != "off":
            reason = (
                "it answers the same row differently after other calls: the network keeps state, "
                "or draws random numbers of its own"
            )
            if self.verify == "strict":
                raise Unavailable(reason)
            warnings.warn(f"{candidate.name} is kept although {reason}", AccuracyWarning, 2)
        return row_by_row(denoiser) if candidate.coupled else denoiser

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

    def _source(self, backend: Backend) -> str:
        """Return what a backend starts from."""
        there = [s for s in backend.sources if s == "onnx" or self.network.module is not None]
        return (there or backend.sources)[0]

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
