"""Which rows share the next step: a pure policy, with no torch, no clock and no model in it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

RequestT = TypeVar("RequestT", bound=Hashable)


@dataclass(frozen=True)
class Assignment(Generic[RequestT]):
    """Row `index` of `request` lives in `slot` until it is done."""

    slot: int
    request: RequestT
    index: int


class Batcher(Generic[RequestT]):
    """First come, first served: every running row takes every step; others wait for a free slot.

    The lowest free slot is given first, so the rows of a lone request lie side by side and need no
    gather. Rows of one request may be split over several waves when the slots do not suffice.

    Parameters
    ----------
    capacity : int
        Number of slots, at least 1.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._free = list(range(capacity))
        self._waiting: deque[tuple[RequestT, int]] = deque()
        self._running: dict[int, Assignment[RequestT]] = {}

    @property
    def running(self) -> list[Assignment[RequestT]]:
        """Rows that take the next step, by slot."""
        return [self._running[slot] for slot in sorted(self._running)]

    def __len__(self) -> int:
        """Return the number of rows that take the next step."""
        return len(self._running)

    @property
    def waiting(self) -> int:
        """Number of rows without a slot."""
        return len(self._waiting)

    def submit(self, request: RequestT, rows: int) -> None:
        """Queue `rows` rows of `request` behind all that wait."""
        self._waiting.extend((request, index) for index in range(rows))

    def join(self) -> list[Assignment[RequestT]]:
        """Give the free slots to the rows that have waited longest; return who got which."""
        joined = []
        while self._free and self._waiting:
            request, index = self._waiting.popleft()
            row = Assignment(heapq.heappop(self._free), request, index)
            self._running[row.slot] = row
            joined.append(row)
        return joined

    def leave(self, slots: Iterable[int]) -> None:
        """Free the slots of rows that are done."""
        for slot in slots:
            del self._running[slot]
            heapq.heappush(self._free, slot)

    def withdraw(self, request: RequestT) -> None:
        """Drop every row of `request`, running or waiting."""
        self._waiting = deque(row for row in self._waiting if row[0] != request)
        self.leave([slot for slot, row in self._running.items() if row.request == request])
