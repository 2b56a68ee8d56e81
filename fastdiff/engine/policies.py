"""Who goes first: the order in which a batcher serves jobs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from fastdiff.errors import UnknownName


class Standing(Protocol):
    """What an order looks at. Times are seconds of one clock."""

    @property
    def arrival(self) -> float:
        """When the job came."""
        ...

    @property
    def patience(self) -> float:
        """How long it lets others go before it, from its arrival on."""
        ...

    @property
    def deadline(self) -> float:
        """When it should be done; infinity for whenever."""
        ...

    @property
    def remaining(self) -> int:
        """Evaluations that it still needs, of all its rows."""
        ...


_KEYS: dict[str, Callable[[Standing], float]] = {
    "first-come": lambda job: job.arrival,
    "shortest-remaining": lambda job: job.remaining,
    "deadline": lambda job: job.deadline,
}

POLICIES = tuple(_KEYS)


@dataclass(frozen=True)
class Policy:
    """An order with aging, so that nobody starves.

    A job whose patience has ended goes before all whose has not, in order of arrival. From then on
    nobody who came after it goes before it, so it is done at most its patience later than under
    first-come, whatever comes meanwhile.

    Attributes
    ----------
    name : str
        ``"first-come"``, where nobody has patience; ``"shortest-remaining"``: fewest remaining
        evaluations first, for the least mean latency; ``"deadline"``: earliest deadline first,
        jobs without one last.
    """

    name: str = "first-come"

    def __post_init__(self) -> None:
        if self.name not in _KEYS:
            raise UnknownName("policy", self.name, POLICIES)

    def ages_at(self, job: Standing) -> float:
        """Return when the patience of `job` ends."""
        return job.arrival + (0.0 if self.name == "first-come" else job.patience)

    def rank(self, job: Standing, now: float) -> tuple[int, float, float]:
        """Return a key by which jobs are sorted; the least goes first."""
        if now >= self.ages_at(job):
            return 0, job.arrival, job.arrival
        return 1, _KEYS[self.name](job), job.arrival


FIRST_COME = Policy()
SHORTEST_REMAINING = Policy("shortest-remaining")
