"""What a server's answers mean to its clients."""

from __future__ import annotations

import base64
import importlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from fastdiff.errors import (
    Cancelled,
    DeadlineImpossible,
    FastdiffError,
    InvalidArgument,
    ModelOutputError,
    Overloaded,
    SamplingError,
    Unavailable,
)

GENERATIONS = "/v1/images/generations"
"""Where requests for images go."""
FILES = "/v1/images/files/"
"""Before the name of an image that was asked for by URL."""

_FAILURES = {"non_finite_output": ModelOutputError, "deadline_exceeded": Cancelled}


@dataclass(frozen=True)
class Generation:
    """The images of one request.

    Attributes
    ----------
    images : list of PIL.Image.Image
    seeds : list of tuple of int
        Each image's seed, and its number under that seed: image 0 of seed s is
        ``Sampler.sample(seed=[s])``, images 0 to n - 1 are ``Sampler.sample(n, seed=s)``.
    steps : int
        Solver steps of each image.
    backend : str
        What evaluated the network.
    queue_seconds, run_seconds : float
        From the server's acceptance to the first step, and from there to the end.
    """

    images: list[Image.Image]
    seeds: list[tuple[int, int]]
    steps: int
    backend: str
    queue_seconds: float
    run_seconds: float

    @classmethod
    def read(cls, answer: Mapping[str, Any]) -> Generation:
        """Read the JSON of an answer."""
        return cls(
            images=[_image(item) for item in answer["data"]],
            seeds=[(item["seed"], item["image"]) for item in answer["data"]],
            steps=answer["steps"],
            backend=answer["backend"],
            queue_seconds=answer["queue_seconds"],
            run_seconds=answer["run_seconds"],
        )

    def arrays(self) -> npt.NDArray[np.uint8]:
        """Return the images as (n, H, W, C)."""
        pictures = np.stack([np.asarray(image) for image in self.images])
        return pictures if pictures.ndim == 4 else pictures[..., None]


@dataclass(frozen=True)
class Frame:
    """An image on its way out of the noise.

    Attributes
    ----------
    index : int
        Which image of the request.
    image : PIL.Image.Image
        The estimate of it, or the image.
    step, total : int
        Of an estimate: evaluations behind it, and until it is done. Of an image: its solver steps,
        twice.
    seed : tuple of int
        As in `Generation`.
    done : bool
        Whether this is the image itself.
    """

    index: int
    image: Image.Image
    step: int
    total: int
    seed: tuple[int, int]
    done: bool

    @classmethod
    def read(cls, event: Mapping[str, Any]) -> Frame:
        """Read the JSON of an event of a stream, and raise what it reports."""
        if event["type"] == "error":
            raise to_error(500, {}, json.dumps(event))
        done = event["type"] == "image_generation.completed"
        return cls(
            index=event["image_index"],
            image=_image(event),
            step=event["steps"] if done else event["step"],
            total=event["steps"],
            seed=(event["seed"], event["image"]),
            done=done,
        )


def _image(item: Mapping[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(item["b64_json"])))


def require_httpx() -> ModuleType:
    """Return httpx.

    Raises
    ------
    Unavailable
        It is not installed.
    """
    try:
        return importlib.import_module("httpx")
    except ImportError as error:
        raise Unavailable("clients need httpx: pip install 'fastdiff-runtime[serve]'") from error


def check_url(url: str) -> str:
    """Return the address of a server as it is.

    Raises
    ------
    InvalidArgument
        It is no address of the web.
    """
    try:
        parts = urlsplit(url)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return url
    except ValueError:  # `urlsplit` raises it for a port that is no number
        pass
    raise InvalidArgument(f"url: expected http://HOST:PORT or https://HOST, got {url!r}")


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the headers that show `api_key`."""
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds after which the server wants to be asked again; 0 if it does not say."""
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # HTTP allows a date too, and a proxy may send one; clients then do without
        return 0.0


def to_error(
    status: int, headers: Mapping[str, str], text: str, deadline_seconds: float = 0.0
) -> FastdiffError:
    """Return what an answer without success means.

    Parameters
    ----------
    status : int
        HTTP status.
    headers : mapping of str to str
    text : str
        The body: ``{"error": {"message": ..., "code": ...}}`` if fastdiff wrote it.
    deadline_seconds : float
        What the request said of it.
    """
    try:
        fault = json.loads(text)["error"]
        message, code = str(fault["message"]), fault["code"]
    except (ValueError, LookupError, TypeError):
        message, code = f"the server answered {status}: {text[:200]}", None
    if code == "deadline_impossible":
        return DeadlineImpossible(message, deadline_seconds + retry_after(headers))
    if status == 429:
        return Overloaded(message, retry_after(headers))
    if status == 503:
        return Unavailable(message)
    if status == 401:
        return InvalidArgument(f"api_key: {message}")
    if status < 500:
        return InvalidArgument(message)
    return _FAILURES.get(code, SamplingError)(message)
