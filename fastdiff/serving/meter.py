"""How fast a worker has been in the last seconds."""

from __future__ import annotations

from collections import deque

_WINDOW_SECONDS = 5.0


class Meter:
    """Counts steps and their rows over the last five seconds."""

    def __init__(self) -> None:
        self._steps: deque[tuple[float, int]] = deque()
        self._rows = 0

    def add(self, now: float, rows: int) -> None:
        """Count a step that ended at `now`."""
        self._steps.append((now, rows))
        self._rows += rows
        self._forget(now)

    def rates(self, now: float) -> tuple[float, float]:
        """Return steps and row steps per second."""
        self._forget(now)
        return len(self._steps) / _WINDOW_SECONDS, self._rows / _WINDOW_SECONDS

    def _forget(self, now: float) -> None:
        while self._steps and self._steps[0][0] <= now - _WINDOW_SECONDS:
            self._rows -= self._steps.popleft()[1]
