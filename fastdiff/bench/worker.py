"""A process of its own for each contender: memory is its own, and a crash or a hot pool too.

Contenders that share a process also share its threads: those of one library spin while another
works, which no user of either would see.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from fastdiff.bench.contenders import Contender, Runner, TurnTimes, Workload
from fastdiff.errors import FastdiffError, Unavailable
from fastdiff.networks import first_line

_WARM_UP_STEPS = 2  # before each turn: the processor and its caches were somebody else's


@dataclass(frozen=True)
class Ready:
    """A contender that can sample `Workload`s now."""

    backend: str
    precision: str
    error: float | None
    sample: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Refusal:
    """Why a contender does not take part."""

    reason: str


class ContenderProcess:
    """One contender in its process; use as a context manager.

    Parameters
    ----------
    model : str
        A model's name or path, as `fastdiff.compile` takes it.
    contender : Contender
    onnx : Path or None
        The exported network, for peers that read it.
    """

    def __init__(self, model: str, contender: Contender, onnx: Path | None) -> None:
        context = multiprocessing.get_context("spawn")
        self.contender = contender
        self._pipe, theirs = context.Pipe()
        # Not a daemon: compilers start processes of their own. It ends when the pipe does.
        self._process = context.Process(target=_serve, args=(theirs, model, contender, onnx))
        self._process.start()
        theirs.close()

    def __enter__(self) -> ContenderProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(timeout=5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def prepare(self, load: Workload) -> Ready:
        """Make everything ready for `load`, and warm up with one sample.

        Raises
        ------
        Unavailable
            The contender cannot take part.
        """
        answer = self._ask(("prepare", load))
        if not isinstance(answer, Ready):
            raise TypeError(f"a worker answered {answer!r}")
        return answer

    def turn(self, load: Workload) -> tuple[TurnTimes, int | None]:
        """Sample once; return its times and the process's peak memory since `prepare`, in bytes."""
        answer: tuple[TurnTimes, int | None] = self._ask(("turn", load))
        return answer

    def _ask(self, message: object) -> Any:
        try:
            self._pipe.send(message)
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            self._process.join(timeout=5)
            raise Unavailable(f"its process ended with code {self._process.exitcode}") from error
        if isinstance(answer, Refusal):
            raise Unavailable(answer.reason)
        return answer


def _serve(pipe: Connection, model: str, contender: Contender, onnx: Path | None) -> None:
    """Answer until None comes."""
    from fastdiff.bench.contenders import inputs, open_runner

    _silence()
    runner: Runner | None = None
    while (message := _receive(pipe)) is not None:
        action, load = message
        try:
            runner = runner or open_runner(model, contender, onnx)
            latents, _ = inputs(runner.network, load.batch)
            if action == "prepare":
                runner.prepare(load)
                sample, _ = runner.sample(load, latents)
                _forget_peak_memory()
                pipe.send(Ready(runner.backend, runner.precision, runner.error, sample.numpy()))
            else:
                runner.sample(replace(load, steps=_WARM_UP_STEPS), latents)
                _, turn = runner.sample(load, latents)
                pipe.send((turn, _peak_memory()))
        except Exception as error:  # whatever a library raises, it is that contender's result
            pipe.send(Refusal(_reason(error)))


def _receive(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, KeyboardInterrupt):
        return None


def _silence() -> None:
    """Keep what libraries print off the table; errors come back by the pipe."""
    null = os.open(os.devnull, os.O_WRONLY)
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def _reason(error: Exception) -> str:
    name = "" if isinstance(error, FastdiffError) else f"{type(error).__name__}: "
    return name + first_line(error)


def _forget_peak_memory() -> None:
    """Start the peak anew, so that compiling does not count (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _peak_memory() -> int | None:
    """Return the largest resident size in bytes since `_forget_peak_memory`; None if unknown."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
