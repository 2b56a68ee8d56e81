"""The engine of one image size inside a worker, and the jobs that are on it."""

from __future__ import annotations

from dataclasses import replace

from fastdiff.engine import StepInfo
from fastdiff.engine.batch import Tick
from fastdiff.engine.batcher import Batching
from fastdiff.engine.requests import Ticket
from fastdiff.errors import InvalidArgument
from fastdiff.sampler import Sampler
from fastdiff.serving.admission import Pace, Queueing
from fastdiff.serving.costs import StepCost, best_step
from fastdiff.serving.jobs import Job, Size


class Lane:
    """Takes steps for jobs of one size.

    Parameters
    ----------
    sampler : Sampler
        The compiled model; the lane makes engines of its own.
    queueing : Queueing

    Attributes
    ----------
    size : tuple of int
        (H, W) of the samples.
    pace : Pace
        How fast they are made.
    jobs : dict of Ticket to Job
        What is on the engine.
    """

    def __init__(self, sampler: Sampler, queueing: Queueing) -> None:
        self._sampler, self._queueing = sampler, queueing
        _, height, width = sampler.network.sample_shape
        self.size: Size = height, width
        seconds = sampler.engine.executor.batch_seconds
        self.pace = Pace(StepCost(seconds), queueing.limit or best_step(seconds))
        self.jobs: dict[Ticket, Job] = {}
        self._began = 0.0  # When the last step began.
        self.rebuild()

    def rebuild(self) -> None:
        """Make a new engine; all jobs start again there, from their first step."""
        queueing = self._queueing
        batching = Batching(queueing.policy, self.pace.limit, queueing.by_request)
        self._engine = self._sampler.new_engine(queueing.places, batching)
        self._engine.prepare(self.pace.limit)
        jobs, self.jobs = self.jobs, {}
        for job in jobs.values():
            job.taken = 0
            self.submit(job)

    def submit(self, job: Job) -> None:
        """Put a job that has its request on the engine; it joins at the next step.

        Raises
        ------
        InvalidArgument
            The model does not return what the solver needs.
        """
        request = job.request
        if request is None:
            raise InvalidArgument("the job has no request")

        def show(info: StepInfo) -> None:
            job.begin(self._began)
            job.show(info)

        if job.progress_every:
            request = replace(request, callback=show)
        job.ticket = self._engine.submit(
            request, arrival=job.arrival, patience=job.patience, deadline=job.deadline
        )
        self.jobs[job.ticket] = job

    def withdraw(self, job: Job) -> None:
        """Take a job off the engine."""
        if job.ticket is not None and self.jobs.pop(job.ticket, None) is not None:
            self._engine.cancel(job.ticket)

    def tick(self, now: float) -> Tick | None:
        """Take a step of the rows whose turn it is, and note who took it.

        Raises
        ------
        Exception
            What the engine raised; the jobs that were in the step have ended with it.
        """
        self._began = now
        tick = self._engine.tick()
        for ticket in tick.tickets if tick else ():
            job = self.jobs[ticket]
            job.begin(now)
            job.taken = ticket.completed
        return tick

    def ended(self) -> list[Job]:
        """Return the jobs whose tickets are done; they are off the engine."""
        done = [ticket for ticket in self.jobs if ticket.done]
        jobs = [self.jobs.pop(ticket) for ticket in done]
        for ticket, job in zip(done, jobs, strict=True):
            job.taken = ticket.completed
        return jobs
