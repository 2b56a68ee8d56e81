"""Pixels as files, and the store that serves them by URL."""

from __future__ import annotations

import io
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from fastdiff.errors import InvalidShape

Pixels = npt.NDArray[np.uint8]


def to_pixels(samples: Tensor) -> Pixels:
    """Turn (n, C, H, W) float32 in [-1, 1] into (n, H, W, C) bytes, C being 1 or 3.

    Raises
    ------
    InvalidShape
        The samples are no grey or colour pictures.
    """
    if samples.ndim != 4 or samples.shape[1] not in (1, 3):
        raise InvalidShape(f"expected pictures (n, 1 or 3, H, W), got {tuple(samples.shape)}")
    scaled = np.rint((np.clip(samples.numpy(), -1, 1) + 1) * 127.5)
    return np.ascontiguousarray(scaled.astype(np.uint8).transpose(0, 2, 3, 1))


def encode(pixels: Pixels, format: str, quality: int = 100) -> bytes:
    """Return one picture as a file.

    Parameters
    ----------
    pixels : ndarray
        (H, W, C) uint8, C being 1 or 3.
    format : {"png", "jpeg", "webp"}
    quality : int
        0 to 100, of jpeg and webp.
    """
    image = Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels)
    file = io.BytesIO()
    image.save(file, format, **({} if format == "png" else {"quality": quality}))
    return file.getvalue()


@dataclass(frozen=True)
class StoredImage:
    """A file of the store.

    Attributes
    ----------
    data : bytes
    format : str
        ``"png"``, ``"jpeg"`` or ``"webp"``.
    expires : float
        On the store's clock.
    """

    data: bytes
    format: str
    expires: float


class ImageStore:
    """Files under names that nobody can guess; the oldest go when it is full.

    Parameters
    ----------
    max_bytes : int
        Of all files together.
    seconds : float
        How long a file is kept.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self, max_bytes: int, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.max_bytes, self.seconds, self._clock = max_bytes, seconds, clock
        self._files: OrderedDict[str, StoredImage] = OrderedDict()
        self._size_bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of files."""
        return len(self._files)

    @property
    def size_bytes(self) -> int:
        """Size of all files together."""
        return self._size_bytes

    def put(self, data: bytes, format: str) -> str:
        """Keep a file; return its name, a token and the format as its extension."""
        now = self._clock()
        name = f"{secrets.token_urlsafe(24)}.{format}"
        with self._lock:
            self._files[name] = StoredImage(data, format, now + self.seconds)
            self._size_bytes += len(data)
            while self._files and (
                self._size_bytes > self.max_bytes or self._oldest().expires <= now
            ):
                self._size_bytes -= len(self._files.popitem(last=False)[1].data)
        return name

    def get(self, name: str) -> StoredImage | None:
        """Return a file that is still there."""
        with self._lock:
            file = self._files.get(name)
            return file if file is not None and file.expires > self._clock() else None

    def _oldest(self) -> StoredImage:
        return next(iter(self._files.values()))
