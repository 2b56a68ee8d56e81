"""Choosing engine, precision and batch size by measurement."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastdiff.denoisers import ENGINES, Denoiser, get_engine
from fastdiff.denoisers.base import DTYPES
from fastdiff.errors import FastdiffError, InvalidArgument, Unavailable, UnknownName
from fastdiff.exporting import Network, export_onnx
from fastdiff.runtime.certificate import Trajectory, certify, reference_trajectory
from fastdiff.runtime.compiled import Compiled, Workspace
from fastdiff.runtime.layout import best_batch
from fastdiff.runtime.machine import describe_machine
from fastdiff.runtime.measuring import BATCHES, Trial, measure
from fastdiff.runtime.report import Candidate, Report
from fastdiff.sampling import Schedule

_LOW_PRECISION_GAIN = 1.1
_MOST_ROWS = 256  # row counts up to here decide which batch sizes are kept

Say = Callable[[str], None]


def tune(
    network: Network,
    schedule: Schedule,
    backend: str,
    precision: str,
    max_batch: int | None,
    say: Say,
    reference: Trajectory | None = None,
) -> Compiled:
    """Measure the usable engines, interleaved, and choose the fastest that passes its certificate.

    Parameters
    ----------
    backend, precision : str
        ``"auto"``, or a name that leaves no choice.
    max_batch : int or None
        Fixes the rows per call; None measures `BATCHES`.
    say : callable
        Told what is running.
    reference : Trajectory, optional
        What the float32 model answers; without it, the torch module is asked.

    Raises
    ------
    UnknownName, Unavailable
        An explicit choice does not exist, or cannot run or does not pass here.
    """
    pairs = _pairs(backend, precision)
    if max_batch is not None and max_batch < 1:
        raise InvalidArgument(f"max_batch: expected at least 1, got {max_batch}")
    if reference is None:
        say("reference trajectory in float32")
        eager = ENGINES["eager"].build(network, "float32")
        reference = reference_trajectory(network, eager, schedule)
    refused: list[Candidate] = []
    passed: list[tuple[Denoiser, Candidate]] = []
    workspace = Workspace()
    path = workspace.path / "denoiser.onnx"
    for engine, kind in pairs:
        say(f"preparing {engine} {kind}")
        denoiser, candidate = _prepare(network, engine, kind, reference, path)
        if denoiser is None:
            refused.append(candidate)
        else:
            passed.append((denoiser, candidate))
    if network.onnx is None and path.exists():
        network = replace(network, onnx=path)
    if not passed:
        raise Unavailable(
            "no engine can run this model as asked: "
            + "; ".join(f"{c.engine} {c.precision}: {c.refusal}" for c in refused)
        )
    say("measuring " + ", ".join(c.name for _, c in passed))
    trials = measure(network, passed, BATCHES if max_batch is None else (max_batch,))
    denoiser, seconds = _choose(trials)
    order = {c.name: i for i, (_, c) in enumerate(passed)}
    measured = [trial.candidate for trial in trials]
    measured.sort(key=lambda c: (order[c.name], c.batch))
    report = Report(network.name, describe_machine(), measured + refused)
    return Compiled(network, schedule, reference, denoiser, seconds, report, workspace)


def _choose(trials: list[Trial]) -> tuple[Denoiser, dict[int, float]]:
    """Take the denoiser with the best rate, and its best batch size for each number of rows."""
    best = max(trials, key=lambda trial: _merit(trial.candidate))
    sizes = {t.candidate.batch: t.candidate for t in trials if t.denoiser is best.denoiser}
    seconds = {batch: candidate.seconds for batch, candidate in sizes.items()}
    for rows in range(1, _MOST_ROWS + 1):
        candidate = sizes[best_batch(seconds, rows)]
        candidate.chosen_from = candidate.chosen_from or rows
    return best.denoiser, {b: s for b, s in seconds.items() if sizes[b].chosen_from}


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
    network: Network, engine: str, precision: str, expected: Trajectory, path: Path
) -> tuple[Denoiser | None, Candidate]:
    """Build and certify one candidate; a refused one is None, with the reason.

    The first engine that reads ONNX has the file written to `path`, the others find it there.
    """
    candidate = Candidate(engine, precision)
    try:
        if ENGINES[engine].reads_onnx and network.onnx is None:
            network = replace(network, onnx=path if path.exists() else export_onnx(network, path))
        denoiser = get_engine(engine).build(network, precision)
        candidate.certificate = certify(denoiser, expected)
    except (FastdiffError, RuntimeError) as error:  # torch raises RuntimeError
        candidate.refusal = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return None, candidate
    candidate.refusal = candidate.certificate.refusal
    return (None if candidate.refusal else denoiser), candidate
