"""Progress bars that cost nothing when they are off."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeRemainingColumn,
)


@dataclass(frozen=True)
class Stage:
    """What is being done now, for someone who waits.

    Attributes
    ----------
    text : str
    done, total : int
        How many of how many such things are behind.
    seconds_left : float or None
        Of the time that may be spent; None where there is no limit.
    """

    text: str
    done: int = 0
    total: int = 1
    seconds_left: float | None = None

    @property
    def left(self) -> str:
        """The time left, for people."""
        return "" if self.seconds_left is None else f"{max(self.seconds_left, 0):.0f} s left"

    def __str__(self) -> str:
        count = f"{self.done} of {self.total}" if self.total > 1 else ""
        return ", ".join(filter(None, (self.text, count, self.left)))


Say = Callable[[Stage], None]


@contextlib.contextmanager
def compile_progress(*, enabled: bool) -> Iterator[Say]:
    """Show the stages of compiling as a bar on the terminal, or not at all."""
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=True,
        disable=not enabled,
    )
    with progress:
        task = progress.add_task("compiling", left="")

        def say(stage: Stage) -> None:
            progress.update(
                task,
                description=stage.text,
                completed=stage.done,
                total=stage.total,
                left=stage.left,
            )

        yield say


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
