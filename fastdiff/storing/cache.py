"""Compiled models kept between processes, under the user's cache folder.

An entry is an artifact under the name that `fastdiff.storing.content.cache_key` gives it.
"""

from __future__ import annotations

import contextlib
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from fastdiff.errors import CacheWarning, InvalidArgument
from fastdiff.paths import cache_folder

_DEFAULT_BYTES = 10 << 30
_SUFFIX = ".fastdiff"
_CANNOT_WRITE = (OSError, NotImplementedError)  # the latter where there are no file locks


@dataclass(frozen=True)
class Entry:
    """A cached model: its file, its size in bytes, and when it was last used (seconds, POSIX)."""

    path: Path
    size: int
    used: float


class Cache:
    """A folder of artifacts, the least recently used of which go when it is full.

    Parameters
    ----------
    folder : Path, optional
        `fastdiff.paths.cache_folder` by default.
    limit_bytes : int, optional
        ``$FASTDIFF_CACHE_BYTES``, else 10 GiB.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self.folder = folder or cache_folder()
        self.limit_bytes = _limit() if limit_bytes is None else limit_bytes
        self._writable = True

    def path(self, key: str) -> Path:
        """Return where the entry `key` lies or will lie."""
        return self.folder / f"{key}{_SUFFIX}"

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the entry `key` alone among all processes: one compiles, the others wait for it.

        Warns
        -----
        CacheWarning
            The folder cannot be written: nobody waits, and nothing will be kept.
        """
        with contextlib.ExitStack() as stack:
            try:
                self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                stack.enter_context(FileLock(self.folder / f"{key}.lock"))
            except _CANNOT_WRITE as error:
                self._warn(error)
            yield

    def keep(self, key: str, write: Callable[[Path], object]) -> None:
        """Let `write` make the entry `key`, and remove old ones; the caller holds its lock.

        Warns
        -----
        CacheWarning
            It cannot be written, and is not kept.
        """
        if not self._writable:
            return  # which `lock` has said
        try:
            write(self.path(key))
            self.trim()
        except _CANNOT_WRITE as error:
            self._warn(error)

    def remove(self, key: str) -> None:
        """Remove the entry `key`, if this user may."""
        with contextlib.suppress(OSError):
            self.path(key).unlink()

    def entries(self) -> list[Entry]:
        """List what is there, the most recently used first."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append(Entry(path, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def touch(self, key: str) -> None:
        """Note that the entry `key` was used now, if this user may write it."""
        with contextlib.suppress(OSError):
            os.utime(self.path(key))

    def trim(self) -> None:
        """Remove the least recently used entries until the rest fits; the newest stays."""
        total = 0
        for index, entry in enumerate(self.entries()):
            total += entry.size
            if index > 0 and total > self.limit_bytes:
                entry.path.unlink(missing_ok=True)

    def clear(self) -> int:
        """Remove every entry and return how many there were."""
        entries = self.entries()
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        for lock in self.folder.glob("*.lock"):
            lock.unlink(missing_ok=True)
        return len(entries)

    def _warn(self, error: Exception) -> None:
        self._writable = False
        warnings.warn(
            f"the compiled model is not kept, since {self.folder} cannot be written ({error}): "
            "set FASTDIFF_CACHE to a folder that can",
            CacheWarning,
            stacklevel=2,
        )


def _limit() -> int:
    text = os.environ.get("FASTDIFF_CACHE_BYTES", str(_DEFAULT_BYTES))
    if not text.isdigit():
        raise InvalidArgument(f"FASTDIFF_CACHE_BYTES: expected a number of bytes, got {text!r}")
    return int(text)
