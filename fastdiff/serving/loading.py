"""From what an operator names to what a server serves."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import fastdiff
from fastdiff.compiler import describe
from fastdiff.errors import InvalidArgument
from fastdiff.integrations import is_pipeline
from fastdiff.sampler import Sampler
from fastdiff.serving.events import Event, Failed, Finished
from fastdiff.serving.jobs import Observer, Worker
from fastdiff.serving.models import Served
from fastdiff.serving.protocol import ImageRequest
from fastdiff.serving.sampler_model import SamplerModel
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
class ModelOptions:
    """What an operator may decide about compiling.

    Attributes
    ----------
    backend, precision : str
        As for `fastdiff.compile`; a .fastdiff file has made these choices.
    batch_invariant : bool
        Compute every image with the same bits in any company.
    sizes : tuple of (int, int)
        Width and height in pixels that every model shall make, the usual one first; its own if
        there are none. Each is compiled by itself.
    """

    backend: str = "auto"
    precision: str = "auto"
    batch_invariant: bool = False
    sizes: tuple[tuple[int, int], ...] = ()


class MakeWorker(Protocol):
    """Makes the worker of a model, such as `fastdiff.serving.worker.ModelWorker`."""

    def __call__(self, name: str, samplers: Sequence[Sampler], *, observer: Observer) -> Worker:
        """Return a worker that tells its steps to `observer`."""
        ...


def load_models(
    service: Service, sources: Sequence[Source], choices: ModelOptions, make_worker: MakeWorker
) -> None:
    """Load models one after the other, have each make an image, and open it to requests.

    Errors are those of `fastdiff.compile`, `fastdiff.load` and `warm_up`.

    Parameters
    ----------
    service : Service
    sources : sequence of Source
    choices : ModelOptions
    make_worker : MakeWorker
    """
    for source in sources:
        begin = time.monotonic()
        _log.info("loading", extra={"fields": {"model": source.name}})
        model = _load(source, choices)
        observer = service.metrics.observer(source.name, model.backend)
        served = Served(model, make_worker(source.name, model.samplers, observer=observer))
        warm_up(served)
        service.add(source.name, served)
        seconds = round(time.monotonic() - begin, 3)
        fields = {"model": source.name, "backend": model.backend, "seconds": seconds}
        _log.info("ready", extra={"fields": fields})


def _load(source: Source, choices: ModelOptions) -> SamplerModel:
    """Compile or read a model."""
    options: dict[str, Any] = {
        "progress": False,  # A progress bar would lie between the JSON lines of the log.
        "batch_invariant": choices.batch_invariant,
    }
    if source.model.endswith(".fastdiff"):
        if choices.sizes:
            raise InvalidArgument(
                f"{source.model} was compiled for one size; serve what it was compiled from"
            )
        return SamplerModel(fastdiff.load(source.model, **options))
    options |= {"backend": choices.backend, "precision": choices.precision}
    if is_pipeline(source.model):
        from fastdiff.integrations.pipelines import load_pipeline  # slow: imports diffusers
        from fastdiff.serving.pipelines import latents_of, pipeline_model

        pipe = load_pipeline(Path(source.model))
        return pipeline_model(_compile(pipe, choices.sizes, *latents_of(pipe), options))
    channels = describe(source.model)[0].sample_shape[0] if choices.sizes else 0
    return SamplerModel(_compile(source.model, choices.sizes, channels, 1, options))


def _compile(
    model: Any, sizes: Sequence[tuple[int, int]], channels: int, scale: int, options: dict[str, Any]
) -> list[Any]:
    """Compile a model for pictures of each of `sizes`, `scale` pixels along a side of a sample."""
    if not sizes:
        return [fastdiff.compile(model, **options)]
    each = []
    for width, height in sizes:
        refusal = f"size {width}x{height} cannot be made by this model"
        if width % scale or height % scale:
            raise InvalidArgument(f"{refusal}: expected multiples of {scale}")
        shape = channels, height // scale, width // scale
        try:
            compiled = fastdiff.compile(model, sample_shape=shape, **options)
        except InvalidArgument as error:
            if error.__cause__ is None:
                raise
            # It has a cause where the network itself raised: its layers do not fit this size.
            raise InvalidArgument(f"{refusal}: {error}") from error
        sampler = compiled if isinstance(compiled, Sampler) else compiled.sampler
        if sampler.network.sample_shape != shape:
            raise InvalidArgument(
                f"{refusal}, which makes samples of {sampler.network.sample_shape}"
            )
        each.append(compiled)
    return each


def warm_up(served: Served) -> None:
    """Make an image of each size as a request would, so that the first client waits for nothing.

    Raises
    ------
    FastdiffError, TimeoutError
        The model makes no image.
    """
    for example in served.model.examples():
        _make_image(served, example)


def _make_image(served: Served, ask: ImageRequest) -> None:
    checked, worker = served.model.check(ask), served.worker
    ends: queue.SimpleQueue[Finished | Failed] = queue.SimpleQueue()

    def listen(event: Event) -> None:
        if isinstance(event, (Finished, Failed)):
            ends.put(event)

    worker.reserve(checked.job)
    try:
        worker.run(checked.job, checked.build(), listen)
        end = ends.get(timeout=_WARM_UP_SECONDS)
    except queue.Empty as error:
        raise TimeoutError(f"{worker.name} made no image in {_WARM_UP_SECONDS:g} s") from error
    finally:
        worker.cancel(checked.job)
    if isinstance(end, Failed):
        raise end.error
    served.model.pixels(end.samples)
