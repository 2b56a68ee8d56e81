"""Who goes first: the order in which a batcher serves jobs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fastdiff.errors import InvalidArgument, UnknownName


class Standing(Protocol):
    """What an order looks at."""

    @property
    def arrival(self) -> float:
        """When the job came, in seconds of the batcher's clock."""
        ...

    @property
    def deadline(self) -> float:
        """When it should be done; infinity for whenever."""
        ...

    @property
    def remaining(self) -> int:
        """Evaluations that it still needs, of all its rows."""
        ...


def _by_arrival(job: Standing) -> float:
    return job.arrival


def _by_remaining(job: Standing) -> float:
    return job.remaining


def _by_deadline(job: Standing) -> float:
    return job.deadline


_KEYS: dict[str, Callable[[Standing], float]] = {
    "first-come": _by_arrival,
    "shortest-remaining": _by_remaining,
    "deadline": _by_deadline,
}

POLICIES = tuple(_KEYS)


@dataclass(frozen=True)
class Policy:
    """An order with aging, so that nobody starves.

    A job that came `patience` seconds ago goes before all that did not, in order of arrival. So
    whoever comes more than `patience` after a job never goes before it, and the job is done at most
    `patience` later than under first-come, whatever comes meanwhile.

    Attributes
    ----------
    name : str
        ``"first-come"``; ``"shortest-remaining"``: fewest remaining evaluations first, which gives
        the least mean latency; ``"deadline"``: earliest deadline first, jobs without one last.
    patience : float
        Seconds until a job has aged. First-come needs none: it is the order of the aged.
    """

    name: str = "first-come"
    patience: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in _KEYS:
            raise UnknownName("policy", self.name, POLICIES)
        if not 0 <= self.patience < math.inf:
            raise InvalidArgument(f"patience: expected finite seconds, got {self.patience!r}")
        if self.name == "first-come":
            object.__setattr__(self, "patience", 0.0)

    def ages_at(self, job: Standing) -> float:
        """Return when `job` has aged."""
        return job.arrival + self.patience

    def rank(self, job: Standing, now: float) -> tuple[int, float, float]:
        """Return a key by which jobs are sorted; the least goes first."""
        if now >= self.ages_at(job):
            return 0, job.arrival, job.arrival
        return 1, _KEYS[self.name](job), job.arrival


FIRST_COME = Policy()
