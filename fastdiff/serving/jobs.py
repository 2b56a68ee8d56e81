"""What a server asks of a model's worker, and what it hears of it.

A place is reserved before any work is done on a request, and everything about a job is told to its
listener, on the worker's thread: listeners hand over and return.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from torch import Tensor

from fastdiff.engine.requests import Request


@dataclass(frozen=True)
class Demand:
    """What a job will cost, known before its request is built.

    Attributes
    ----------
    rows : int
        Images.
    steps : int
        Solver table rows, which are evaluations per image without guidance.
    guided : bool
        Whether each step evaluates the network twice.
    size : tuple of int or None
        (H, W) of the denoiser's sample; None for the model's own.
    deadline : float or None
        When the result must be there, in seconds of `time.monotonic`.
    """

    rows: int
    steps: int
    guided: bool = False
    size: tuple[int, int] | None = None
    deadline: float | None = None


@dataclass(frozen=True)
class Started:
    """The job's first rows take their first step.

    Attributes
    ----------
    queue_seconds : float
        Since the reservation.
    """

    queue_seconds: float


@dataclass(frozen=True)
class Progress:
    """Some rows took a step; sent if the listener asked for it.

    Attributes
    ----------
    step, total : int
        Steps behind these images, and until they are done.
    images : ndarray
        (k,) int: which images of the job.
    denoised : Tensor
        (k, C, H, W) float32: estimates of x0, a copy.
    """

    step: int
    total: int
    images: npt.NDArray[np.int64]
    denoised: Tensor


@dataclass(frozen=True)
class Finished:
    """The job is done.

    Attributes
    ----------
    samples : Tensor
        (n, C, H, W) float32.
    queue_seconds, run_seconds : float
        From reservation to first step, and from there to the end.
    """

    samples: Tensor
    queue_seconds: float
    run_seconds: float


@dataclass(frozen=True)
class Failed:
    """The job ended without images.

    Attributes
    ----------
    error : BaseException
        `fastdiff.errors.Cancelled` if somebody cancelled it or it could not meet its deadline,
        `NonFiniteOutput` with the step, or what the engine raised.
    """

    error: BaseException


Event = Started | Progress | Finished | Failed
Listener = Callable[[Event], None]


class Reservation(Protocol):
    """A place in a worker's queue. It is given back when the job ends, or by `cancel`."""

    @property
    def estimate_seconds(self) -> float:
        """From the reservation until the job is done, if nothing comes after it."""
        ...

    def run(self, request: Request, listener: Listener, *, progress_every: int = 0) -> None:
        """Queue `request`; ends with exactly one `Finished` or `Failed`.

        Parameters
        ----------
        request : Request
            Of this reservation's demand.
        listener : callable
            Called on the worker's thread.
        progress_every : int
            Send `Progress` every so many steps; 0 for never.
        """
        ...

    def cancel(self) -> None:
        """Free the rows at the next step; does nothing for a job that has ended."""
        ...


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker does now.

    Attributes
    ----------
    state : str
        ``"loading"``, ``"ready"``, ``"draining"`` or ``"stopped"``.
    waiting_rows, running_rows, jobs : int
        Rows of jobs without a step yet, rows of the last step, and jobs that hold a place.
    steps_per_second, row_steps_per_second : float
        While steps ran, over the last seconds; 0 if none did.
    step_seconds : mapping of int to float
        Learned duration of a step by its number of evaluations.
    """

    state: str
    waiting_rows: int
    running_rows: int
    jobs: int
    steps_per_second: float
    row_steps_per_second: float
    step_seconds: Mapping[int, float]


class Observer(Protocol):
    """Counts what a worker does; called on its thread."""

    def step(self, rows: int, evaluations: int, seconds: float) -> None:
        """Record a step."""
        ...

    def wasted(self, row_steps: int, reason: str) -> None:
        """Record steps of rows that ended without an image: "cancelled", "deadline", "failed"."""
        ...

    def non_finite(self, rows: int) -> None:
        """Record rows whose model output was not finite."""
        ...

    def rebuilt(self) -> None:
        """Record that the engine was rebuilt after a crash."""
        ...


class Worker(Protocol):
    """A model on a thread of its own. Every method may be called from any thread; none blocks."""

    @property
    def name(self) -> str:
        """What clients call the model."""
        ...

    def reserve(self, demand: Demand) -> Reservation:
        """Reserve places for a job.

        Raises
        ------
        Overloaded
            The queue is full; has `retry_after`, in seconds.
        DeadlineImpossible
            The job cannot be done by its deadline; has `estimate_seconds`.
        Unavailable
            The worker is not ready: it loads, drains or has stopped.
        """
        ...

    def status(self) -> WorkerStatus:
        """Return what it does now."""
        ...
