"""From a worker's thread to the event loop, in bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass

from torch import Tensor

from fastdiff.serving.jobs import Event, Failed, Finished, Progress


@dataclass(frozen=True)
class Partial:
    """The newest estimate of one image.

    Attributes
    ----------
    image : int
        Which image of the request.
    step, total : int
        Steps behind it, and until it is done.
    denoised : Tensor
        (C, H, W) float32 estimate of x0.
    """

    image: int
    step: int
    total: int
    denoised: Tensor


class Mailbox:
    """Listens to a job and keeps what its client has not taken yet.

    Of each image only the newest estimate is kept: a client that reads slowly gets fewer of them,
    and the end always.

    Attributes
    ----------
    dropped : int
        Estimates that gave way to newer ones.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._lock = threading.Lock()
        self._partials: dict[int, Partial] = {}
        self._end: Finished | Failed | None = None
        self.dropped = 0

    def __call__(self, event: Event) -> None:
        """Take an event, on the worker's thread."""
        with self._lock:
            if isinstance(event, Progress):
                self._take(event)
            elif isinstance(event, (Finished, Failed)):
                self._end = event
            else:
                return
        with contextlib.suppress(RuntimeError):  # the loop has ended, and everybody has left
            self._loop.call_soon_threadsafe(self._arrived.set)

    def _take(self, event: Progress) -> None:
        if event.step == event.total:
            return  # the image itself is coming
        for row, image in enumerate(event.images.tolist()):
            self.dropped += image in self._partials
            self._partials[image] = Partial(image, event.step, event.total, event.denoised[row])

    async def wait(self, seconds: float | None = None) -> None:
        """Return when something has arrived, or after `seconds`."""
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), seconds)

    def take(self) -> tuple[list[Partial], Finished | Failed | None]:
        """Return the estimates that have arrived, and the end if it has."""
        with self._lock:
            self._arrived.clear()
            partials, self._partials = list(self._partials.values()), {}
            return partials, self._end

    async def end(self) -> Finished | Failed:
        """Wait for the end."""
        while True:
            _, end = self.take()
            if end is not None:
                return end
            await self.wait()
