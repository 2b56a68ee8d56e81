"""What the server must know of a model, and what a model makes of a request."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from fastdiff.engine.requests import Request
from fastdiff.serving.images import Pixels
from fastdiff.serving.jobs import Job, Worker
from fastdiff.serving.protocol import ImageRequest


@dataclass(frozen=True)
class CheckedRequest:
    """A request that its model can serve, before any work is done on it.

    Attributes
    ----------
    ask : ImageRequest
        What the client said, with its seeds.
    width, height : int
        Of each image, in pixels.
    steps : int
        Solver steps.
    job : Job
        What the worker is asked for.
    build : callable
        Returns the engine's request: solver table, noise, conditioning. Takes milliseconds, or as
        long as a text encoder.
    """

    ask: ImageRequest
    width: int
    height: int
    steps: int
    job: Job
    build: Callable[[], Request]

    @property
    def progress_every(self) -> int:
        """Steps between estimates, so that at most as many come as were asked for; 0 for none."""
        wanted = self.ask.partial_images or 0
        return -(-self.job.steps // (wanted + 1)) if wanted else 0


class Model(Protocol):
    """What the server must know of a model.

    `CheckedRequest.build` and `pixels` run in the server's thread pool, all else on its event loop.
    """

    @property
    def backend(self) -> str:
        """What runs it, for responses and metrics."""
        ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """What clients may ask for, as ``/v1/status`` shows it."""
        ...

    def examples(self) -> list[ImageRequest]:
        """Return short requests that the model can serve, one of each size, to warm it up with."""
        ...

    def check(self, ask: ImageRequest) -> CheckedRequest:
        """Check the parameters of a request that has its seeds.

        Raises
        ------
        ApiError
            400, with the name of a parameter that this model cannot take.
        """
        ...

    def pixels(self, samples: Tensor) -> Pixels:
        """Turn samples, or estimates of them, into (n, H, W, C) bytes."""
        ...


@dataclass(frozen=True)
class Served:
    """A model with the worker that runs it."""

    model: Model
    worker: Worker
