"""Choosing engine, precision and batch size by measurement."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from fastdiff.denoisers import ENGINES, Denoiser, get_engine
from fastdiff.denoisers.precision import first_line
from fastdiff.errors import AccuracyWarning, FastdiffError, Unavailable
from fastdiff.exporting import Network, export_onnx
from fastdiff.runtime.certificate import Trajectory, certify, reference_trajectory
from fastdiff.runtime.choices import Choices
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
        What the float32 model answers; without it, the torch module is asked.

    Raises
    ------
    Unavailable
        An explicit choice cannot run or does not pass here, or nothing does.
    """
    pairs = _pairs(choices)
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
        denoiser, candidate = _prepare(network, engine, kind, reference, path, choices.verify)
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
    trials = measure(
        network,
        passed,
        BATCHES if choices.max_batch is None else (choices.max_batch,),
        choices.budget_seconds,
    )
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


def _pairs(choices: Choices) -> list[tuple[str, str]]:
    """Return the engines and precisions to look at."""
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
    network: Network,
    engine: str,
    precision: str,
    expected: Trajectory,
    path: Path,
    verify: str,
) -> tuple[Denoiser | None, Candidate]:
    """Build and certify one candidate; a refused one is None, with the reason.

    The first engine that reads ONNX has the file written to `path`, the others find it there.
    """
    candidate = Candidate(engine, precision)
    try:
        if ENGINES[engine].reads_onnx and network.onnx is None:
            network = replace(network, onnx=path if path.exists() else export_onnx(network, path))
        denoiser = get_engine(engine).build(network, precision)
        if verify != "off":
            candidate.certificate = certify(denoiser, expected)
    except (FastdiffError, RuntimeError) as error:  # torch raises RuntimeError
        candidate.refusal = first_line(error)
        return None, candidate
    refusal = candidate.certificate.refusal if candidate.certificate else None
    if refusal is not None and verify == "warn":
        warnings.warn(f"{candidate.name} is kept although {refusal}", AccuracyWarning, stacklevel=2)
    else:
        candidate.refusal = refusal
    return (None if candidate.refusal else denoiser), candidate
