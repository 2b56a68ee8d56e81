"""From a worker's thread to the event loop, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque

from fastdiff.serving.events import Event, Failed, Finished, Progress

_MAX_BYTES = 1 << 20


class Mailbox:
    """Listens to a job and keeps what its client has not taken yet.

    Estimates are kept up to 1 MiB of them, and the newest always: a client that reads slowly does
    without older ones, and gets the end in any case.

    Attributes
    ----------
    dropped : int
        Estimates of images that gave way to newer ones.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._lock = threading.Lock()
        self._progress: deque[Progress] = deque()
        self._bytes = 0
        self._end: Finished | Failed | None = None
        self.dropped = 0

    def __call__(self, event: Event) -> None:
        """Take an event, on the worker's thread."""
        with self._lock:
            if isinstance(event, (Finished, Failed)):
                self._end = event
            elif isinstance(event, Progress) and event.step < event.total:
                self._keep(event)
            else:  # Nobody waits for the start, and after the last step `Finished` has the images.
                return
        with contextlib.suppress(RuntimeError):  # The loop is closed: the server has ended.
            self._loop.call_soon_threadsafe(self._arrived.set)

    def _keep(self, event: Progress) -> None:
        self._progress.append(event)
        self._bytes += event.denoised.nbytes
        while self._bytes > _MAX_BYTES and len(self._progress) > 1:
            oldest = self._progress.popleft()
            self._bytes -= oldest.denoised.nbytes
            self.dropped += len(oldest.images)

    async def wait(self, seconds: float | None = None) -> None:
        """Return when something has arrived, or after `seconds`."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), seconds)

    def take(self) -> tuple[list[Progress], Finished | Failed | None]:
        """Return the estimates that have arrived, and the end if it has."""
        with self._lock:
            self._arrived.clear()
            progress = list(self._progress)
            self._progress.clear()
            self._bytes = 0
            return progress, self._end

    async def end(self) -> Finished | Failed:
        """Wait for the end."""
        while True:
            _, end = self.take()
            if end is not None:
                return end
            await self.wait()
