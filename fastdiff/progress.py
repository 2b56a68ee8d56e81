"""What is said on stderr to someone who waits: on a terminal or in a notebook, never in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

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
def compile_progress(wanted: bool | None) -> Iterator[Say]:
    """Show the stages of compiling as a line that goes when they are done.

    Parameters
    ----------
    wanted : bool or None
        False shows nothing. None shows nothing either where ``FASTDIFF_PROGRESS`` is 0.
    """
    if not _is_wanted(wanted):
        yield lambda stage: None
    elif _is_terminal():
        with _compile_bar() as say:
            yield say
    elif _is_notebook():
        with _notebook_line() as write:
            yield lambda stage: write(str(stage))
    else:
        yield lambda stage: None


def tell_result(text: str, wanted: bool | None) -> None:
    """Print the result of compiling where its stages are shown; with `wanted` in a pipe too."""
    if wanted or (_is_wanted(wanted) and (_is_terminal() or _is_notebook())):
        print(text, file=sys.stderr, flush=True)


@contextlib.contextmanager
def sampling_progress(total: int, *, enabled: bool) -> Iterator[Callable[[int], None]]:
    """Show row steps, their rate and the time left.

    Parameters
    ----------
    total : int
        Row steps until done.
    enabled : bool

    Yields
    ------
    callable
        To be told how many row steps are done.
    """
    begin = time.perf_counter()

    def rate(completed: int) -> float:
        return completed / max(time.perf_counter() - begin, 1e-9)

    if enabled and _is_terminal():
        with _sampling_bar() as bar:
            task = bar.add_task("", total=total, rate=0.0)
            yield lambda done: bar.update(task, completed=done, rate=rate(done))
    elif enabled and _is_notebook():
        with _notebook_line() as write:
            yield lambda done: write(f"{done}/{total} row steps, {rate(done):.0f} row steps/s")
    else:
        yield lambda done: None


def _is_wanted(wanted: bool | None) -> bool:
    return os.environ.get("FASTDIFF_PROGRESS") != "0" if wanted is None else wanted


def _is_terminal() -> bool:
    """Whether somebody looks at stderr; rich also says so of a pipe, where FORCE_COLOR is set."""
    return sys.stderr is not None and sys.stderr.isatty()


def _is_notebook() -> bool:
    return Console(stderr=True).is_jupyter


@contextlib.contextmanager
def _compile_bar() -> Iterator[Say]:
    progress = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),  # a model's name may have brackets
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
        console=Console(stderr=True),
        transient=True,
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


def _sampling_bar() -> Progress:
    return Progress(
        TextColumn("sampling"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.0f} row steps/s"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


@contextlib.contextmanager
def _notebook_line() -> Iterator[Callable[[str], None]]:
    """Give a function that writes over the text before: a notebook has no terminal's controls."""
    width = 0

    def write(text: str) -> None:
        nonlocal width
        width = max(width, len(text))
        print(f"\r{text:<{width}}", end="", file=sys.stderr, flush=True)

    try:
        yield write
    finally:
        print(f"\r{'':<{width}}\r", end="", file=sys.stderr, flush=True)
