"""From what an operator names to what a server serves."""

from __future__ import annotations

import logging
import queue
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastdiff
from fastdiff.errors import InvalidArgument
from fastdiff.runtime import Sampler
from fastdiff.serving.jobs import Event, Failed, Finished
from fastdiff.serving.models import SamplerModel, Served

_WARM_UP_SECONDS = 600.0
_log = logging.getLogger("fastdiff.serving")


@dataclass(frozen=True)
class Source:
    """A model that is to be served.

    Attributes
    ----------
    name : str
        What clients call it.
    model : str
        A name that `fastdiff.compile` knows, a folder, or a .fastdiff file.
    """

    name: str
    model: str

    @classmethod
    def parse(cls, text: str) -> Source:
        """Read ``NAME=MODEL``, or ``MODEL``, which is called as its file or folder is."""
        name, found, model = text.partition("=")
        if not found:
            name, model = Path(text).name.removesuffix(".fastdiff"), text
        if not name or not model:
            raise InvalidArgument(f"expected MODEL or NAME=MODEL, got {text!r}")
        return cls(name, model)

    def load(self, *, batch_invariant: bool, progress: bool, **choices: Any) -> SamplerModel:
        """Compile or read the model; errors are those of `fastdiff.compile` and `fastdiff.load`.

        Parameters
        ----------
        batch_invariant : bool
            Compute every image with the same bits in any company.
        progress : bool
            Show what is done on the terminal.
        **choices
            ``backend`` and ``precision``; a .fastdiff file has made them.
        """
        options: dict[str, Any] = {"progress": progress}
        if batch_invariant:
            options["batch_invariant"] = True
        if self.model.endswith(".fastdiff"):
            compiled: Any = fastdiff.load(self.model, **options)
        else:
            compiled = fastdiff.compile(self.model, **options, **choices)
        if isinstance(compiled, Sampler):
            return SamplerModel(compiled)
        from fastdiff.serving.pipelines import pipeline_model  # imports diffusers' pipelines

        return pipeline_model(compiled)


def warm_up(name: str, served: Served) -> None:
    """Make an image as a request would, so that the first client waits for nothing.

    Raises
    ------
    FastdiffError, TimeoutError
        The model makes no image.
    """
    begin = time.monotonic()
    plan = served.model.plan(served.model.example())
    ends: queue.SimpleQueue[Finished | Failed] = queue.SimpleQueue()

    def listen(event: Event) -> None:
        if isinstance(event, (Finished, Failed)):
            ends.put(event)

    reservation = served.worker.reserve(plan.demand)
    try:
        reservation.run(plan.build(), listen)
        end = ends.get(timeout=_WARM_UP_SECONDS)
    except queue.Empty as error:
        raise TimeoutError(f"{name} made no image in {_WARM_UP_SECONDS:g} s") from error
    finally:
        reservation.cancel()
    if isinstance(end, Failed):
        raise end.error
    served.model.pixels(end.samples)
    fields = {"model": name, "engine": served.model.engine, "seconds": time.monotonic() - begin}
    _log.info("ready", extra={"fields": fields})
