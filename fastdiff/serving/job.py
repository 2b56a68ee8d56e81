"""A job from its reservation to its end."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Protocol

from fastdiff.engine import StepInfo
from fastdiff.engine.requests import Request, Ticket
from fastdiff.errors import Cancelled, InvalidArgument
from fastdiff.serving.admission import Place
from fastdiff.serving.jobs import Event, Finished, Listener, Progress, Started

_log = logging.getLogger("fastdiff.serving")


class Desk(Protocol):
    """Where a job hands in what its client wants."""

    def start(self, job: Job) -> None:
        """Queue a job that has its request."""
        ...

    def cancel(self, job: Job) -> None:
        """End a job at the next step."""
        ...


class Job:
    """A place in the queue with all that comes of it (`fastdiff.serving.jobs.Reservation`).

    Attributes
    ----------
    place : Place
    request : Request or None
        Once the client has handed it in.
    ticket : Ticket or None
        Once it is on an engine.
    began : float or None
        When its first rows took their first step.
    cancelled, ended : bool
        Whether its client gave it up, and whether its end has come.
    """

    def __init__(self, place: Place, desk: Desk) -> None:
        self.place = place
        self.request: Request | None = None
        self.ticket: Ticket | None = None
        self.began: float | None = None
        self.cancelled = self.ended = False
        self.progress_every = 0
        self._desk = desk
        self._listener: Listener | None = None

    @property
    def estimate_seconds(self) -> float:
        """From the reservation until it is done, as was foretold then."""
        return self.place.estimate_seconds

    def run(self, request: Request, listener: Listener, *, progress_every: int = 0) -> None:
        """Queue `request`; ends with exactly one `Finished` or `Failed`.

        Raises
        ------
        InvalidArgument
            It asks for more than was reserved, or for nothing, or the place was used before.
        """
        demand = self.place.demand
        if self.request is not None:
            raise InvalidArgument("a reservation runs one request; reserve again")
        if not 0 < request.rows <= demand.rows or request.steps > demand.steps:
            raise InvalidArgument(
                f"reserved {demand.rows} images of {demand.steps} steps, "
                f"got {request.rows} of {request.steps}"
            )
        self.place.demand = replace(demand, rows=request.rows, steps=request.steps)
        self._listener, self.progress_every = listener, progress_every
        self.request = request
        self._desk.start(self)

    def cancel(self) -> None:
        """Free the rows at the next step; does nothing for a job that has ended."""
        self._desk.cancel(self)

    @property
    def queue_seconds(self) -> float:
        """From the reservation to the first step."""
        return 0.0 if self.began is None else self.began - self.place.arrival

    def finished(self, now: float) -> Finished:
        """Return the end of a job that went well; raises what went wrong otherwise."""
        if self.ticket is None:
            raise Cancelled("the job has not been run")
        samples = self.ticket.result()
        return Finished(samples, self.queue_seconds, now - self.place.arrival - self.queue_seconds)

    def begin(self, now: float) -> None:
        """Note that a step of it began at `now`."""
        if self.began is None:
            self.began = now
            self.tell(Started(self.queue_seconds))

    def show(self, info: StepInfo) -> None:
        """Tell of a step if it is one of those that the listener wants."""
        if info.step % self.progress_every == 0 or info.step == info.total:
            self.tell(Progress(info.step, info.total, info.images, info.denoised))

    def tell(self, event: Event) -> None:
        """Tell the listener, whose exceptions are its own."""
        try:
            if self._listener is not None:
                self._listener(event)
        except Exception:
            _log.exception("the listener of a job raised")
