"""A job from the check of its request to its end, and the worker of a model that runs it.

A place in the queue is reserved before any work is done on a request. From then on everything about
the job is told to its listener, on the worker's thread: a listener hands over and returns.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from fastdiff.engine import StepInfo
from fastdiff.engine.requests import Request, Ticket
from fastdiff.errors import Cancelled, InvalidArgument
from fastdiff.serving.events import Event, Finished, Listener, Progress, Started
from fastdiff.serving.forecast import Work

Size = tuple[int, int]
"""(H, W) of a denoiser's sample."""

_log = logging.getLogger("fastdiff.serving")


@dataclass(eq=False)
class Job:
    """The images of one request: what they cost, their place in the queue, and how far they are.

    One object goes from the check of the request to the last image, and two threads see it. Who may
    write what:

    - `rows` to `deadline` describe the job. Whoever makes it writes them, before it is reserved;
      `Worker.run` lowers `rows` and `steps` to what the built request needs.
    - `arrival`, `patience` and `estimate_seconds` are written by `Worker.reserve`; `request`,
      `listener` and `progress_every` by `Worker.run`; `cancelled` and `ended` by whoever ends the
      job. All of that happens under the worker's lock.
    - `ticket`, `began` and `taken` belong to the worker's thread. Others may read `taken`, which
      estimates do, and may see it a step late.

    It has all that the order of a queue looks at (`fastdiff.engine.policies.Standing`).

    Attributes
    ----------
    rows : int
        Images, at least 1.
    steps : int
        Rows of the solver's table, which are evaluations per image without guidance; at least 1.
    size : tuple of int
        (H, W) of the denoiser's sample.
    guided : bool
        Whether each step evaluates the network twice.
    deadline : float
        When the images must be there, in seconds of `time.monotonic`; infinity for whenever.
    arrival : float
        When the job got its place, on the same clock; infinity as long as it has none.
    patience : float
        Seconds for which it lets others go before it.
    estimate_seconds : float
        From its arrival until it is done, as was foretold at its arrival.
    request : Request or None
        What the engine shall do, once it has been built.
    listener : callable or None
        Hears of the job.
    progress_every : int
        Steps between two `Progress` events; 0 for none.
    cancelled, ended : bool
        Whether its client gave it up, and whether its end has come.
    ticket : Ticket or None
        The engine's, once the job is on one.
    began : float or None
        When its first rows took their first step.
    taken : int
        Row steps behind it.
    """

    rows: int
    steps: int
    size: Size
    guided: bool = False
    deadline: float = math.inf
    arrival: float = math.inf
    patience: float = 0.0
    estimate_seconds: float = 0.0
    request: Request | None = None
    listener: Listener | None = None
    progress_every: int = 0
    cancelled: bool = False
    ended: bool = False
    ticket: Ticket | None = None
    began: float | None = None
    taken: int = 0

    def __post_init__(self) -> None:
        if self.rows < 1 or self.steps < 1:
            raise InvalidArgument(
                f"expected at least 1 image and 1 step, got {self.rows} and {self.steps}"
            )

    @property
    def evaluations(self) -> int:
        """Network evaluations of one row's step."""
        return 2 if self.guided else 1

    @property
    def row_steps(self) -> int:
        """Row steps that it still needs."""
        return self.rows * self.steps - self.taken

    @property
    def remaining(self) -> int:
        """Network evaluations that it still needs."""
        return self.evaluations * self.row_steps

    @property
    def work(self) -> Work:
        """What it still needs, as if its rows went on side by side."""
        steps = -(-self.row_steps // self.rows)
        return Work(self.rows, steps, self.evaluations, self.taken > 0)

    @property
    def queue_seconds(self) -> float:
        """From its arrival to its first step; 0 as long as there was none."""
        return 0.0 if self.began is None else self.began - self.arrival

    def accept(self, request: Request, listener: Listener, progress_every: int) -> None:
        """Take in what a worker was told to run.

        Raises
        ------
        InvalidArgument
            It asks for more than was reserved, or for nothing, or the job has been run before.
        """
        if self.arrival == math.inf:
            raise InvalidArgument("the job has no place in a queue yet; reserve one first")
        if self.request is not None:
            raise InvalidArgument("a reservation runs one request; reserve again")
        if not 0 < request.rows <= self.rows or request.steps > self.steps:
            raise InvalidArgument(
                f"reserved {self.rows} images of {self.steps} steps, "
                f"got {request.rows} of {request.steps}"
            )
        self.rows, self.steps = request.rows, request.steps
        self.request, self.listener, self.progress_every = request, listener, progress_every

    def begin(self, now: float) -> None:
        """Note that a step of it began at `now`."""
        if self.began is None:
            self.began = now
            self.tell(Started(self.queue_seconds))

    def show(self, info: StepInfo) -> None:
        """Tell of a step if it is one of those that the listener wants."""
        if info.step % self.progress_every == 0 or info.step == info.total:
            self.tell(Progress(info.step, info.total, info.images, info.denoised))

    def finished(self, now: float) -> Finished:
        """Return the end of a job that went well; raises what went wrong otherwise."""
        if self.ticket is None:
            raise Cancelled("the job has not been run")
        samples = self.ticket.result()
        return Finished(samples, self.queue_seconds, now - self.arrival - self.queue_seconds)

    def tell(self, event: Event) -> None:
        """Tell the listener; what it raises is logged and changes nothing."""
        try:
            if self.listener is not None:
                self.listener(event)
        except Exception:
            _log.exception("the listener of a job raised")


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


class Observer:
    """Counts what a worker does, on the worker's thread; this one counts nothing."""

    def step(self, rows: int, evaluations: int, seconds: float) -> None:
        """Record a step."""

    def wasted(self, row_steps: int, reason: str) -> None:
        """Record steps of rows that ended without an image: "cancelled", "deadline", "failed"."""

    def non_finite(self, rows: int) -> None:
        """Record rows whose model output was not finite."""

    def rebuilt(self) -> None:
        """Record that the engine was rebuilt after a crash."""


class Worker(Protocol):
    """Runs a model's jobs on a thread of its own.

    Every method may be called from any thread, and none waits for a step.
    """

    @property
    def name(self) -> str:
        """What clients call the model."""
        ...

    def reserve(self, job: Job) -> None:
        """Give a job its place in the queue: it counts against the queue's bound from now on.

        The place is given back when the job ends, or by `cancel`.

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

    def run(
        self, job: Job, request: Request, listener: Listener, *, progress_every: int = 0
    ) -> None:
        """Queue a job that has its place; it ends with exactly one `Finished` or `Failed`.

        Parameters
        ----------
        job : Job
        request : Request
            No more images or steps than the job was reserved for.
        listener : callable
            Called on the worker's thread; at once if the worker has stopped.
        progress_every : int
            Send `Progress` every so many steps; 0 for never.
        """
        ...

    def cancel(self, job: Job) -> None:
        """End a job: its rows leave before the next step. Does nothing if it has ended."""
        ...

    def status(self) -> WorkerStatus:
        """Return what it does now."""
        ...
