"""A progress bar that costs nothing when it is off."""

from __future__ import annotations

import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressBar:
    """Shows row steps, their rate and the time left.

    Parameters
    ----------
    total : int
        Row steps until done.
    enabled : bool
        False makes every method do nothing.
    """

    def __init__(self, total: int, *, enabled: bool) -> None:
        self._progress = (
            Progress(
                TextColumn("sampling"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:.0f} row steps/s"),
                TimeRemainingColumn(),
            )
            if enabled
            else None
        )
        self._total = total

    def __enter__(self) -> ProgressBar:
        if self._progress is not None:
            self._progress.start()
            self._task = self._progress.add_task("sampling", total=self._total, rate=0.0)
            self._begin = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def update(self, completed: int) -> None:
        """Show that `completed` row steps are done."""
        if self._progress is not None:
            rate = completed / max(time.perf_counter() - self._begin, 1e-9)
            self._progress.update(self._task, completed=completed, rate=rate)
