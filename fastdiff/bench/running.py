"""A benchmark run: every contender in its process, taking turns."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastdiff.backends import get_backend
from fastdiff.backends.base import PRECISIONS
from fastdiff.bench.contenders import BASELINE, PEERS, Contender, TurnTimes, Workload
from fastdiff.bench.peers import DETERMINISTIC
from fastdiff.bench.results import Result
from fastdiff.bench.timing import ratio
from fastdiff.bench.worker import ContenderProcess, Ready
from fastdiff.compiler import describe
from fastdiff.errors import FastdiffError, InvalidArgument, Unavailable, UnknownName
from fastdiff.exporting import export_onnx
from fastdiff.networks.precision import DTYPES
from fastdiff.sampling import get_solver

Say = Callable[[str], None]
_READS_ONNX = ("onnxruntime", "openvino")


@dataclass(frozen=True)
class Comparison:
    """What to compare.

    Attributes
    ----------
    backends, precisions : sequence of str
        Backends of fastdiff, or ``"auto"``; every combination takes part.
    peers : sequence of str
        Some of `PEERS`.
    batches : sequence of int
    solvers : sequence of str
    steps, rounds : int
        Steps of a sample, and samples that each contender takes in turn.
    """

    backends: Sequence[str] = ("auto",)
    precisions: Sequence[str] = ("auto",)
    peers: Sequence[str] = PEERS
    batches: Sequence[int] = (1, 4)
    solvers: Sequence[str] = ("ddim",)
    steps: int = 20
    rounds: int = 5

    def __post_init__(self) -> None:
        for name in self.backends:
            if name != "auto":
                get_backend(name)
        for name in self.precisions:
            if name not in {"auto", *PRECISIONS}:
                raise UnknownName("precision", name, ("auto", *PRECISIONS))
        for name in self.peers:
            if name not in PEERS:
                raise UnknownName("peer", name, PEERS)
        for name in self.solvers:
            get_solver(name)
        for name, values in (
            ("batch", self.batches),
            ("steps", [self.steps]),
            ("rounds", [self.rounds]),
        ):
            if not values or min(values) < 1:
                raise InvalidArgument(f"{name}: expected at least 1, got {list(values)}")

    def contenders(self) -> list[Contender]:
        """Return everything that takes part, the baseline first if it does."""
        peers = []
        if "diffusers" in self.peers:
            lower = [p for p in self.precisions if p in DTYPES and p != "float32"]
            peers = [BASELINE, *(Contender("diffusers", p, peer=True) for p in lower)]
        peers += [Contender(name, "auto", peer=True) for name in self.peers if name != "diffusers"]
        return peers + [Contender(b, p) for b in self.backends for p in self.precisions]


@dataclass
class _Entry:
    """A contender that is ready, and its turns so far."""

    worker: ContenderProcess
    ready: Ready
    turns: list[TurnTimes] = field(default_factory=list)
    peak_memory_bytes: int | None = None


def run(model: str, comparison: Comparison, say: Say = lambda text: None) -> list[Result]:
    """Compare all contenders of `comparison` on one model, interleaved.

    Parameters
    ----------
    model : str
        A model's name or path, as `fastdiff.compile` takes it.
    comparison : Comparison
    say : callable
        Told what is running.

    Returns
    -------
    list of Result
        One for each contender, batch size and solver; what could not run says why.
    """
    results = []
    with ExitStack() as stack:
        workers = _open(model, comparison, say, stack)
        for solver in comparison.solvers:
            for batch in comparison.batches:
                load = Workload(batch, solver, comparison.steps)
                results += _compare(model, workers, load, comparison.rounds, say)
    return results


def _open(model: str, comparison: Comparison, say: Say, stack: ExitStack) -> list[ContenderProcess]:
    """Start a process for each contender; export the network if a peer reads it."""
    contenders = comparison.contenders()
    onnx: Path | None = None
    if any(c.peer and c.backend in _READS_ONNX for c in contenders):
        say(f"{model}: exporting for the peers that read ONNX")
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="fastdiff-"))
        onnx = export_onnx(describe(model)[0], Path(folder) / "denoiser.onnx")
    return [stack.enter_context(ContenderProcess(model, c, onnx)) for c in contenders]


def _compare(
    model: str, workers: list[ContenderProcess], load: Workload, rounds: int, say: Say
) -> list[Result]:
    """Prepare everybody, let them take turns, and return the figures."""
    what = f"{model}, {load.solver}, batch {load.batch}"
    entries: list[_Entry] = []
    refused: list[Result] = []
    for worker in workers:
        say(f"{what}: preparing {worker.contender.name}")
        try:
            entries.append(_Entry(worker, worker.prepare(load)))
        except Unavailable as error:
            refused.append(_refused(model, load, worker.contender, error))
    for done in range(rounds):
        first = done % max(1, len(entries))  # so that nobody always follows the same one
        for entry in entries[first:] + entries[:first]:
            say(f"{what}: round {done + 1} of {rounds}, {entry.worker.contender.name}")
            try:
                turn, entry.peak_memory_bytes = entry.worker.turn(load)
                entry.turns.append(turn)
            except Unavailable as error:
                entries.remove(entry)
                refused.append(_refused(model, load, entry.worker.contender, error))
    baseline = next((e for e in entries if e.worker.contender == BASELINE), None)
    return [_result(model, load, entry, baseline) for entry in entries] + refused


def _result(model: str, load: Workload, entry: _Entry, baseline: _Entry | None) -> Result:
    contender, turns = entry.worker.contender, entry.turns
    steps = [1e3 * seconds for turn in turns for seconds in turn.step_seconds]
    seconds = statistics.median(turn.seconds for turn in turns)
    error = entry.ready.error
    if baseline is not None:
        comparable = load.solver in DETERMINISTIC
        error = _distance(entry.ready.sample, baseline.ready.sample) if comparable else None
    return Result(
        model=model,
        solver=load.solver,
        steps=load.steps,
        batch=load.batch,
        contender=contender.name,
        peer=contender.peer,
        backend=entry.ready.backend,
        precision=entry.ready.precision,
        steps_per_second=load.steps / seconds,
        images_per_second=load.batch / seconds,
        p50_ms=float(np.percentile(steps, 50)),
        p95_ms=float(np.percentile(steps, 95)),
        peak_memory_bytes=entry.peak_memory_bytes,
        error=error,
        ratio=None
        if baseline is None
        else ratio([t.seconds for t in baseline.turns], [t.seconds for t in turns]),
        turn_seconds=tuple(t.seconds for t in turns),
    )


def _refused(model: str, load: Workload, contender: Contender, error: FastdiffError) -> Result:
    return Result(
        model=model,
        solver=load.solver,
        steps=load.steps,
        batch=load.batch,
        contender=contender.name,
        peer=contender.peer,
        backend=contender.backend,
        precision=contender.precision,
        refused=str(error),
    )


def _distance(got: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> float:
    """Return the relative L2 distance."""
    return float(np.linalg.norm(got - expected) / max(np.linalg.norm(expected), 1e-12))
