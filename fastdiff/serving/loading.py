"""From what an operator names to what a server serves."""

from __future__ import annotations

import logging
import queue
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fastdiff
from fastdiff.errors import InvalidArgument
from fastdiff.runtime import Sampler
from fastdiff.serving.jobs import Event, Failed, Finished, Observer, Worker
from fastdiff.serving.models import SamplerModel, Served
from fastdiff.serving.service import Service

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


@dataclass(frozen=True)
class Choices:
    """What an operator may decide about compiling.

    Attributes
    ----------
    backend, precision : str
        As for `fastdiff.compile`; a .fastdiff file has made these choices.
    batch_invariant : bool
        Compute every image with the same bits in any company.
    """

    backend: str = "auto"
    precision: str = "auto"
    batch_invariant: bool = False


class MakeWorker(Protocol):
    """Makes the worker of a model, such as `fastdiff.serving.worker.ModelWorker`."""

    def __call__(self, name: str, samplers: Sampler, *, observer: Observer) -> Worker:
        """Return a worker that tells its steps to `observer`."""
        ...


def load_models(
    service: Service, sources: Sequence[Source], choices: Choices, make_worker: MakeWorker
) -> None:
    """Load models one after the other, have each make an image, and open it to requests.

    Errors are those of `fastdiff.compile`, `fastdiff.load` and `warm_up`.

    Parameters
    ----------
    service : Service
    sources : sequence of Source
    choices : Choices
    make_worker : MakeWorker
    """
    for source in sources:
        begin = time.monotonic()
        model = _load(source, choices)
        observer = service.metrics.observer(source.name, model.engine)
        served = Served(model, make_worker(source.name, model.sampler, observer=observer))
        warm_up(served)
        service.add(source.name, served)
        seconds = round(time.monotonic() - begin, 3)
        fields = {"model": source.name, "engine": model.engine, "seconds": seconds}
        _log.info("ready", extra={"fields": fields})


def _load(source: Source, choices: Choices) -> SamplerModel:
    """Compile or read a model."""
    options: dict[str, Any] = {
        "progress": sys.stderr.isatty(),
        "batch_invariant": choices.batch_invariant,
    }
    if source.model.endswith(".fastdiff"):
        compiled: Any = fastdiff.load(source.model, **options)
    else:
        options |= {"backend": choices.backend, "precision": choices.precision}
        compiled = fastdiff.compile(source.model, **options)
    if isinstance(compiled, Sampler):
        return SamplerModel(compiled)
    from fastdiff.serving.pipelines import pipeline_model  # imports diffusers' pipelines

    return pipeline_model(compiled)


def warm_up(served: Served) -> None:
    """Make an image as a request would, so that the first client waits for nothing.

    Raises
    ------
    FastdiffError, TimeoutError
        The model makes no image.
    """
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
        raise TimeoutError(
            f"{served.worker.name} made no image in {_WARM_UP_SECONDS:g} s"
        ) from error
    finally:
        reservation.cancel()
    if isinstance(end, Failed):
        raise end.error
    served.model.pixels(end.samples)
