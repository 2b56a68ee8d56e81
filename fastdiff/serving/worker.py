"""A model on a thread of its own: takes jobs, runs them step by step, survives what they do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from fastdiff.engine.requests import Request
from fastdiff.errors import Cancelled, InvalidArgument, NonFiniteOutput, Unavailable
from fastdiff.sampler import Sampler
from fastdiff.serving.admission import DEFAULT, Admission, Queueing
from fastdiff.serving.events import Failed, Finished, Listener
from fastdiff.serving.jobs import Job, Observer, WorkerStatus
from fastdiff.serving.lane import Lane
from fastdiff.serving.meter import Meter

_MAX_CRASHES = 3
_log = logging.getLogger("fastdiff.serving")


class ModelWorker:
    """Runs a model's jobs on a thread of its own (`fastdiff.serving.jobs.Worker`).

    A lock is held for bookkeeping only, never during a step, so nobody waits for the model.

    An engine that raises fails the jobs that were in its step. It is then built anew, and all
    others start again from their first step, with the same bits. After three crashes without a
    finished job in between the worker stops.

    Parameters
    ----------
    name : str
        What clients call the model.
    samplers : Sampler or sequence of Sampler
        The compiled model; several where it makes several sizes.
    observer : Observer, optional
        Counts what the worker does.
    queueing : Queueing
        Order and bounds of the queue.
    """

    def __init__(
        self,
        name: str,
        samplers: Sampler | Sequence[Sampler],
        observer: Observer | None = None,
        *,
        queueing: Queueing = DEFAULT,
    ) -> None:
        self.name = name
        self._queueing, self._observer = queueing, observer or Observer()
        each = [samplers] if isinstance(samplers, Sampler) else samplers
        lanes = [Lane(sampler, self._queueing) for sampler in each]
        self._lanes = {lane.size: lane for lane in lanes}
        paces = {size: lane.pace for size, lane in self._lanes.items()}
        # Guards what follows, up to what the thread alone uses; notified when there is work.
        self._wake = threading.Condition()
        self._admission, self._meter = Admission(paces, self._queueing), Meter()
        self._to_start: list[Job] = []
        self._to_cancel: list[Job] = []
        self._state, self._running_rows = "ready", 0
        # The thread's own: crashes since a job finished, and when it could begin the next step.
        self._crashes, self._free_since = 0, 0.0
        self._thread = threading.Thread(target=self._run, name=f"fastdiff-{name}", daemon=True)
        self._thread.start()

    def reserve(self, job: Job) -> None:
        """Give a job its place in the queue (`fastdiff.serving.jobs.Worker.reserve`).

        Raises
        ------
        InvalidArgument
            The model does not make that size, or the job had a place before.
        """
        if job.size not in self._lanes:
            known = ", ".join(f"{height}x{width}" for height, width in self._lanes)
            raise InvalidArgument(f"size: expected one of {known} (height x width), got {job.size}")
        with self._wake:
            if self._state != "ready":
                raise Unavailable(f"{self.name} takes no jobs: its worker is {self._state}")
            self._admission.admit(job, time.monotonic())

    def run(
        self, job: Job, request: Request, listener: Listener, *, progress_every: int = 0
    ) -> None:
        """Queue a job that has its place (`fastdiff.serving.jobs.Worker.run`).

        Raises
        ------
        InvalidArgument
            The request asks for more than was reserved, or the job cannot be run (again).
        """
        with self._wake:
            job.accept(request, listener, progress_every)
            alive = self._state != "stopped"
            if alive:
                self._to_start.append(job)
                self._wake.notify()
        if not alive:
            self._end(job, Failed(Unavailable(f"the worker of {self.name} has stopped")), "failed")

    def cancel(self, job: Job) -> None:
        """End a job before its next step; does nothing if it has ended."""
        with self._wake:
            if job.cancelled or job.ended:
                return
            job.cancelled = True
            if job.request is None:
                self._admission.leave(job)
            else:
                self._to_cancel.append(job)
                self._wake.notify()

    def status(self) -> WorkerStatus:
        """Return what the worker does now."""
        with self._wake:
            jobs = self._admission.jobs
            steps, row_steps = self._meter.rates(time.monotonic())
            learned: dict[int, float] = {}
            for lane in self._lanes.values():
                learned |= lane.pace.cost.learned()
            return WorkerStatus(
                state=self._state,
                waiting_rows=sum(job.rows for job in jobs if not job.taken),
                running_rows=self._running_rows,
                jobs=len(jobs),
                steps_per_second=steps,
                row_steps_per_second=row_steps,
                step_seconds=learned,
            )

    def drain(self) -> None:
        """Take no more jobs; those that have a place go on."""
        with self._wake:
            if self._state == "ready":
                self._state = "draining"

    def close(self) -> None:
        """End all jobs with `Cancelled` and the thread; returns when it has ended."""
        with self._wake:
            self._state = "stopped"
            self._wake.notify()
        self._thread.join()

    def _run(self) -> None:
        """Serve until somebody closes the worker, or it cannot go on."""
        error: Exception = Cancelled("the server stopped")
        try:
            while self._round():
                pass
        except BaseException as fault:
            _log.critical("the worker of %s stops", self.name, exc_info=fault)
            error = Unavailable(f"the worker of {self.name} has stopped: {fault}")
        with self._wake:
            self._state, self._running_rows = "stopped", 0
            to_start, self._to_start = self._to_start, []
        for job in [*to_start, *self._jobs()]:
            self._end(job, Failed(error), "failed")

    def _round(self) -> bool:
        """Take in what came, and a step; return whether to go on."""
        with self._wake:
            if not self._jobs():
                self._running_rows = 0
                self._wake.wait_for(lambda: self._to_start or self._state == "stopped")
                self._free_since = time.monotonic()
            if self._state == "stopped":
                return False
            to_start, self._to_start = self._to_start, []
            to_cancel, self._to_cancel = self._to_cancel, []
        now = time.monotonic()
        for job in to_start:
            self._take_in(job)
        for job in to_cancel:
            self._withdraw(job, Cancelled("the request was cancelled"), "cancelled")
        self._drop_late(now)
        lane = self._most_urgent(now)
        if lane is not None:
            self._step(lane, now)
        return True

    def _take_in(self, job: Job) -> None:
        """Put a job on its engine."""
        if job.cancelled:
            self._end(job, Failed(Cancelled("the request was cancelled")), "cancelled")
            return
        try:
            self._lanes[job.size].submit(job)
        except Exception as error:
            self._end(job, Failed(error), "failed")

    def _withdraw(self, job: Job, error: Exception, reason: str) -> None:
        """End a job that may be on its engine."""
        self._lanes[job.size].withdraw(job)
        self._end(job, Failed(error), reason)

    def _drop_late(self, now: float) -> None:
        """End the jobs that would miss their deadlines even if they were alone from now on."""
        for job in self._jobs():
            late = now + self._admission.least_seconds(job) - job.deadline
            if late > 0:
                error = Cancelled(f"the deadline cannot be met any more: {late:.3g} s are missing")
                self._withdraw(job, error, "deadline")

    def _most_urgent(self, now: float) -> Lane | None:
        """Return the size whose turn it is: that of the job that goes first."""
        rank = self._queueing.policy.rank
        first = min(self._jobs(), key=lambda job: rank(job, now), default=None)
        return None if first is None else self._lanes[first.size]

    def _jobs(self) -> list[Job]:
        """Return the jobs that are on engines."""
        return [job for lane in self._lanes.values() for job in lane.jobs.values()]

    def _step(self, lane: Lane, now: float) -> None:
        """Take a step of `lane`, and tell whom it concerns."""
        crash: Exception | None = None
        try:
            tick = lane.tick(now)
        except Exception as error:
            crash, tick = error, None
        for job in lane.ended():
            self._finish(job)
        if crash is not None:
            self._recover(lane, crash)
        if tick is not None:
            end = time.monotonic()
            # Not the step alone: all that kept the next one from beginning.
            seconds, self._free_since = end - self._free_since, end
            lane.pace.cost.learn(tick.evaluations, seconds)
            self._observer.step(tick.rows, tick.evaluations, seconds)
            with self._wake:
                self._running_rows = tick.rows
                self._meter.add(end, tick.rows, seconds)

    def _finish(self, job: Job) -> None:
        """End a job whose ticket is done."""
        try:
            event = job.finished(time.monotonic())
        except Exception as error:
            if isinstance(error, NonFiniteOutput):
                self._observer.non_finite(1)
            self._end(job, Failed(error), "failed")
        else:
            self._crashes = 0
            self._end(job, event)

    def _recover(self, lane: Lane, error: Exception) -> None:
        """Go on with a new engine, unless it is of no use."""
        self._crashes += 1
        _log.error("the engine of %s failed", self.name, exc_info=error)
        if self._crashes >= _MAX_CRASHES:
            raise error
        for job in lane.jobs.values():
            self._waste(job, "failed")
        lane.rebuild()
        self._observer.rebuilt()
        self._free_since = time.monotonic()

    def _end(self, job: Job, event: Finished | Failed, reason: str = "") -> None:
        """Give a job's place back and tell it."""
        with self._wake:
            if job.ended:
                return
            job.ended = True
            self._admission.leave(job)
        if isinstance(event, Failed):
            self._waste(job, reason)
        job.tell(event)

    def _waste(self, job: Job, reason: str) -> None:
        if job.taken:
            self._observer.wasted(job.taken, reason)
