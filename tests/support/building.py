"""Compile each content once, whichever of several test processes needs it first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


@contextmanager
def claimed(path: Path) -> Iterator[bool]:
    """Whether a file has yet to be made, by this process alone: others wait until it is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):
        yield not path.exists()
