"""Who gets a place in a worker's queue, and when each job will be done."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from fastdiff.engine.policies import SHORTEST_REMAINING, Policy
from fastdiff.errors import DeadlineImpossible, InvalidArgument, Overloaded
from fastdiff.serving.costs import StepCost
from fastdiff.serving.forecast import forecast
from fastdiff.serving.jobs import Job, Size


@dataclass(frozen=True)
class Queueing:
    """How a worker serves its queue.

    Attributes
    ----------
    policy : Policy
        Who goes first.
    patience : float
        How long a job lets others go before it, as a multiple of the time that its own steps take
        in full batches. First-come needs none.
    places : int
        Images that may wait or run. A job of more than that is taken when nothing else is there.
    backlog_seconds : float
        Work that may lie before a job.
    by_request : bool
        Batch by request instead of by step: a batch begins when the one before it has ended.
    limit : int or None
        Evaluations per step; None for as many as make the machine busy (`costs.best_step`).
    """

    policy: Policy = SHORTEST_REMAINING
    patience: float = 20.0
    places: int = 256
    backlog_seconds: float = 60.0
    by_request: bool = False
    limit: int | None = None

    def __post_init__(self) -> None:
        for name in ("patience", "places", "backlog_seconds"):
            value = getattr(self, name)
            if not 0 <= value < math.inf or (name == "places" and value < 1):
                raise InvalidArgument(f"{name}: expected a finite, positive number, got {value!r}")
        if self.limit is not None and self.limit < 1:
            raise InvalidArgument(f"limit: expected at least 1 evaluation, got {self.limit!r}")


DEFAULT = Queueing()


@dataclass(frozen=True)
class Pace:
    """How fast images of one size are made.

    Attributes
    ----------
    cost : StepCost
        Learns while the worker runs.
    limit : int
        Evaluations per step.
    """

    cost: StepCost
    limit: int

    @property
    def full_seconds(self) -> float:
        """Duration of a full step."""
        return self.cost(self.limit)


class Admission:
    """A bounded queue whose jobs know when they will be done.

    A job's estimate is the forecast of its queue in the order of the policy, at the costs that were
    learned: exact where nothing else comes (`forecast`). Jobs of other sizes take steps of their
    own, so the time of those that go first is added.

    It is not thread-safe: a lock of its owner's guards it.

    Parameters
    ----------
    paces : mapping of (int, int) to Pace
        By size.
    queueing : Queueing
    """

    def __init__(self, paces: Mapping[Size, Pace], queueing: Queueing) -> None:
        self._paces, self._queueing = paces, queueing
        self._jobs: dict[Job, None] = {}  # in order of arrival

    @property
    def jobs(self) -> list[Job]:
        """The jobs that hold a place, in order of arrival."""
        return list(self._jobs)

    def admit(self, job: Job, now: float) -> None:
        """Give a job its place.

        Raises
        ------
        Overloaded
            The queue is full.
        DeadlineImpossible
            The job would miss its deadline even if nothing came after it.
        InvalidArgument
            The job had a place before.
        """
        if job.arrival < math.inf:
            raise InvalidArgument("a job is reserved once; make another one")
        self._check_room(job)
        job.arrival = now
        job.patience = self._queueing.patience * job.steps * self._paces[job.size].full_seconds
        job.estimate_seconds = seconds = self._estimate(job, now)
        if now + seconds > job.deadline:
            raise DeadlineImpossible(
                f"the images would be there in {seconds:.3g} s, "
                f"the deadline is in {job.deadline - now:.3g} s",
                seconds,
            )
        self._jobs[job] = None

    def leave(self, job: Job) -> None:
        """Give a job's place back; does nothing if it has none."""
        self._jobs.pop(job, None)

    def least_seconds(self, job: Job) -> float:
        """Return how long `job` would still take if it were alone from now on."""
        work = job.work
        return work.steps * self._paces[job.size].cost(work.evaluations)

    def _check_room(self, job: Job) -> None:
        held = sum(other.rows for other in self._jobs)
        if not held:
            return
        backlog = self._backlog(self._jobs)
        too_many = held + job.rows - self._queueing.places
        too_long = backlog - self._queueing.backlog_seconds
        if too_many > 0 or too_long > 0:
            raise Overloaded(
                f"the queue is full: {held} images, about {backlog:.3g} s of work",
                max(backlog * min(too_many / held, 1.0), too_long),
            )

    def _backlog(self, jobs: Iterable[Job]) -> float:
        """Return the seconds that the work of `jobs` takes in full steps."""
        each = {size: pace.full_seconds / pace.limit for size, pace in self._paces.items()}
        return sum(job.remaining * each[job.size] for job in jobs)

    def _estimate(self, job: Job, now: float) -> float:
        """Return the seconds until `job` is done if nothing comes after it."""
        policy = self._queueing.policy
        order = sorted([*self._jobs, job], key=lambda other: policy.rank(other, now))
        queue = order[: order.index(job) + 1]
        return sum(self._forecast(queue, size) for size in self._paces)

    def _forecast(self, queue: Sequence[Job], size: Size) -> float:
        """Return the seconds of `size`'s steps until the last of `queue` is done."""
        pace = self._paces[size]
        work = [job.work for job in queue if job.size == size]
        done = forecast(work, pace.limit, pace.cost, by_request=self._queueing.by_request)
        return done[-1] if queue[-1].size == size else max(done, default=0.0)
