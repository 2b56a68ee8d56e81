"""How fast a worker has been in the last seconds."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

_WINDOW_SECONDS = 5.0


class Meter:
    """Counts steps and their rows over the last five seconds, or two steps where those are longer.

    Rates are of the time in which steps ran, so a short burst is as fast as a long one.
    """

    def __init__(self) -> None:
        self._steps: deque[_Step] = deque()

    def add(self, now: float, rows: int, seconds: float) -> None:
        """Count a step of `rows` rows that ended at `now` and took so long."""
        self._steps.append(_Step(now + max(_WINDOW_SECONDS, 2 * seconds), rows, seconds))
        self._forget(now)

    def rates(self, now: float) -> tuple[float, float]:
        """Return steps and row steps per second; 0 where nothing ran lately."""
        self._forget(now)
        seconds = sum(step.seconds for step in self._steps) or math.inf
        rows = sum(step.rows for step in self._steps)
        return len(self._steps) / seconds, rows / seconds

    def _forget(self, now: float) -> None:
        while self._steps and self._steps[0].forgotten_at <= now:
            self._steps.popleft()


class _Step(NamedTuple):
    forgotten_at: float
    rows: int
    seconds: float
