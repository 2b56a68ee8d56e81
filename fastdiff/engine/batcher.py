"""Which rows share the next step: a pure policy, with no torch, no clock and no model in it."""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from fastdiff.engine.policies import FIRST_COME, Policy

JobT = TypeVar("JobT", bound=Hashable)


@dataclass(eq=False)
class Row(Generic[JobT]):
    """Image `index` of `job`, on its way.

    Attributes
    ----------
    evaluations : int
        Network evaluations of one step: 2 if it is guided.
    steps_left : int
        Steps that it still has to take, as of the last `Batcher.settle`.
    slot : int or None
        Where its state lives, from its first step to its last.
    """

    job: JobT
    index: int
    evaluations: int
    steps_left: int
    slot: int | None = None


@dataclass(frozen=True, eq=False)
class Turn(Generic[JobT]):
    """The rows whose turn it is to take a step.

    Attributes
    ----------
    rows : list of Row
        By slot.
    joined : list of Row
        Those of `rows` that take their first step in this turn.
    """

    rows: list[Row[JobT]]
    joined: list[Row[JobT]]

    @property
    def evaluations(self) -> int:
        """Network evaluations of a step."""
        return sum(row.evaluations for row in self.rows)


@dataclass(eq=False)
class _Job(Generic[JobT]):
    """The rows of a job that have not ended, by index."""

    arrival: float
    patience: float
    deadline: float
    rows: dict[int, Row[JobT]]

    @property
    def remaining(self) -> int:
        return sum(row.steps_left * row.evaluations for row in self.rows.values())


@dataclass(frozen=True)
class Batching:
    """Which rows may share a step.

    Attributes
    ----------
    policy : Policy
        The order of jobs.
    limit : int or None
        Evaluations per step; a row that needs more runs alone. None for as many as there are slots
        for.
    by_request : bool
        Form a batch only when nothing runs, and keep it until all of it has ended, as servers
        without step-level batching do.
    """

    policy: Policy = FIRST_COME
    limit: int | None = None
    by_request: bool = False


EVERYONE = Batching()


class Batcher(Generic[JobT]):
    """Decides before each step which rows take it.

    Rows are served in the order of their jobs (`Policy`), and a step takes the longest beginning of
    that order which fits. So nobody is delayed by whoever comes later in the order, and a row that
    has to make way is paused: it keeps its slot and its progress.

    ::

        turn = batcher.turn(now)        # the same object for as long as the same rows run
        ended = batcher.take_step()     # the rows whose last step it was; their slots are free

    A row gets the lowest free slot when it takes its first step, so the rows of a lone job lie side
    by side and need no gather. While all slots are taken, those who hold one go on.

    Parameters
    ----------
    capacity : int
        Number of slots, at least 1.
    batching : Batching
        The order of jobs, and how many rows a step takes of it.
    """

    def __init__(self, capacity: int, batching: Batching = EVERYONE) -> None:
        self.capacity, self.policy, self.by_request = capacity, batching.policy, batching.by_request
        self.limit = math.inf if batching.limit is None else batching.limit
        self._free = list(range(capacity))
        self._closed = False
        self._jobs: dict[JobT, _Job[JobT]] = {}
        self._turn: Turn[JobT] = Turn([], [])
        self._stale = False  # whether the turn may be another's
        self._until = math.inf  # when it may be by the clock alone
        self._taken = 0  # steps of the turn that `steps_left` does not know of
        self._shortest = 0  # steps until a row of the turn ends

    @property
    def holding(self) -> int:
        """Rows with a slot: they run or are paused."""
        return self.capacity - len(self._free)

    @property
    def waiting(self) -> int:
        """Rows that have not taken a step."""
        return sum(len(job.rows) for job in self._jobs.values()) - self.holding

    def submit(
        self,
        job: JobT,
        steps: int,
        evaluations: Sequence[int],
        *,
        arrival: float = 0.0,
        patience: float = 0.0,
        deadline: float = math.inf,
    ) -> None:
        """Add a job.

        Parameters
        ----------
        job : hashable
            Names the job.
        steps : int
            Steps of each of its rows, at least 1.
        evaluations : sequence of int
            Evaluations per step of each row; at least one row.
        arrival, patience, deadline : float
            See `policies.Standing`; by the clock that `turn` is given. Jobs of the same rank go in
            the order in which they were submitted.
        """
        rows = {index: Row(job, index, count, steps) for index, count in enumerate(evaluations)}
        self._jobs[job] = _Job(arrival, patience, deadline, rows)
        self._stale = True

    def withdraw(self, job: JobT) -> None:
        """Drop every row of `job`, if there are any; their slots are free."""
        dropped = self._jobs.pop(job, None)
        if dropped is not None:
            self.settle()
            self._free_slots(dropped.rows.values())

    def close(self) -> None:
        """Let no row begin; those that have begun go on."""
        self._closed = self._stale = True

    def open(self) -> None:
        """Let rows begin again."""
        self._closed, self._stale = False, True

    def turn(self, now: float) -> Turn[JobT]:
        """Return who takes the next step: nobody only if there is nobody who may.

        Parameters
        ----------
        now : float
            Seconds of any clock that does not go back.
        """
        if self._stale or now >= self._until:
            self.settle()
            rows = self._choose(now)
            joined = [row for row in rows if row.slot is None]
            for row in joined:
                row.slot = heapq.heappop(self._free)
            if joined or set(rows) != set(self._turn.rows):
                self._turn = Turn(sorted(rows, key=_slot), joined)
            self._shortest = min((row.steps_left for row in rows), default=0)
            self._stale = False
        return self._turn

    def take_step(self) -> Sequence[Row[JobT]]:
        """Let the rows of the turn take a step; return those whose last it was."""
        self._taken += 1
        if self._taken < self._shortest:
            return ()
        self.settle()
        ended = [row for row in self._turn.rows if row.steps_left == 0]
        for row in ended:
            job = self._jobs[row.job]
            del job.rows[row.index]
            if not job.rows:
                del self._jobs[row.job]
        self._free_slots(ended)
        return ended

    def settle(self) -> None:
        """Bring `steps_left` of the turn's rows up to date."""
        for row in self._turn.rows:
            row.steps_left -= self._taken
        self._shortest -= self._taken
        self._taken = 0

    def _choose(self, now: float) -> list[Row[JobT]]:
        """Return the longest beginning of the order that fits, and note when the order changes."""
        self._until = math.inf
        if self.by_request and self.holding:
            rows = (row for job in self._jobs.values() for row in job.rows.values())
            return [row for row in rows if row.slot is not None]
        chosen: list[Row[JobT]] = []
        used, free = 0, 0 if self._closed else len(self._free)
        for job in sorted(self._jobs.values(), key=lambda job: self.policy.rank(job, now)):
            for row in job.rows.values():
                if row.slot is None and not free:
                    continue
                if len(chosen) == self.capacity or (chosen and used + row.evaluations > self.limit):
                    self._until = self._next_aging(now)
                    return chosen
                chosen.append(row)
                used, free = used + row.evaluations, free - (row.slot is None)
        return chosen

    def _next_aging(self, now: float) -> float:
        times = map(self.policy.ages_at, self._jobs.values())
        return min((time for time in times if time > now), default=math.inf)

    def _free_slots(self, rows: Iterable[Row[JobT]]) -> None:
        for row in rows:
            if row.slot is not None:
                heapq.heappush(self._free, row.slot)
        self._stale = True


def _slot(row: Row[Any]) -> int:
    return -1 if row.slot is None else row.slot
