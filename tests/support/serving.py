"""Pieces of a server for tests: a model, a worker that does what it is told, and a real server."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import ClassVar, cast

import numpy as np
import torch
import uvicorn

from fastdiff.backends import BACKENDS
from fastdiff.compiler import describe
from fastdiff.compiling.compiled import Compiled, Workspace
from fastdiff.compiling.report import Candidate, Report
from fastdiff.compiling.trajectory import Trajectory
from fastdiff.engine.requests import Request
from fastdiff.errors import Cancelled, Unavailable
from fastdiff.networks import Network
from fastdiff.sampler import Sampler
from fastdiff.sampling import Schedule
from fastdiff.serving.app import create_app
from fastdiff.serving.events import Failed, Finished, Listener, Progress, Started
from fastdiff.serving.images import Pixels, to_pixels
from fastdiff.serving.jobs import Job, WorkerStatus
from fastdiff.serving.loading import warm_up
from fastdiff.serving.models import CheckedRequest, Served
from fastdiff.serving.protocol import ImageRequest
from fastdiff.serving.sampler_model import SamplerModel
from fastdiff.serving.service import Service, Settings
from fastdiff.serving.worker import ModelWorker


@functools.cache
def digits() -> Sampler:
    """Return the digits model on the eager backend, unmeasured; one for a test run."""
    return unmeasured(*describe("digits"))


def unmeasured(network: Network, schedule: Schedule) -> Sampler:
    """Return a sampler on the eager backend; nothing is measured and nothing certified."""
    network = replace(network, output_channels=network.probe())
    report = Report(network.name, "", [Candidate("eager", "float32", 8, 1e-3, chosen_from=1)])
    denoiser = BACKENDS["eager"].build(network, "float32")
    nobody = cast("Trajectory", None)  # a certificate would compare with it
    return Sampler(Compiled(network, schedule, nobody, denoiser, {8: 1e-3}, report, Workspace()))


class FakeModel:
    """A served model whose requests nobody runs: its pictures are grey."""

    backend = "none"
    parameters: ClassVar[dict] = {"max_steps": 1000}

    def check(self, ask: ImageRequest) -> CheckedRequest:
        steps = ask.num_inference_steps or 10
        return CheckedRequest(ask, 8, 8, steps, Job(ask.count, steps, (8, 8)), build=lambda: None)

    def pixels(self, samples: torch.Tensor) -> Pixels:
        return to_pixels(samples)


@dataclass(eq=False)
class FakeWorker:
    """A worker that runs jobs at once while `gate` is set, and raises `refusal` if there is one.

    ``jobs`` hold a place; ``seen`` are all that were ever reserved.
    """

    name: str = "digits"
    sample_shape: tuple[int, int, int] = (1, 8, 8)
    state: str = "ready"
    refusal: Exception | None = None
    error: BaseException | None = None
    gate: threading.Event = field(default_factory=threading.Event)
    jobs: set[Job] = field(default_factory=set)
    seen: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.gate.set()

    def reserve(self, job: Job) -> None:
        if self.refusal is not None:
            raise self.refusal
        if self.state != "ready":
            raise Unavailable(f"the worker is {self.state}")
        job.arrival, job.estimate_seconds = time.monotonic(), 1.5
        self.jobs.add(job)
        self.seen.append(job)

    def run(
        self, job: Job, request: Request, listener: Listener, *, progress_every: int = 0
    ) -> None:
        job.request, job.listener, job.progress_every = request, listener, progress_every
        if self.gate.is_set():
            threading.Thread(target=self.play, args=[job]).start()

    def cancel(self, job: Job) -> None:
        if not job.ended:
            job.cancelled = True
            self.end(job, Failed(Cancelled("the request was cancelled")))

    def status(self) -> WorkerStatus:
        rows = sum(job.rows for job in self.jobs)
        return WorkerStatus(self.state, 0, rows, len(self.jobs), 0.0, 0.0, {})

    def play(self, job: Job) -> None:
        """Tell a whole life of the job."""
        job.tell(Started(0.25))
        every = job.progress_every or job.steps
        for step in range(every, job.steps, every):
            self.tell_progress(job, step)
        samples = torch.zeros(job.rows, *self.sample_shape)
        self.end(job, Failed(self.error) if self.error else Finished(samples, 0.25, 0.5))

    def tell_progress(self, job: Job, step: int) -> None:
        estimates = torch.full((job.rows, *self.sample_shape), step / job.steps)
        job.tell(Progress(step, job.steps, np.arange(job.rows), estimates))

    def tell_noise(self, job: Job) -> None:
        """Tell an estimate that no picture format makes small."""
        estimates = 2 * torch.rand(job.rows, *self.sample_shape) - 1
        job.tell(Progress(1, job.steps, np.arange(job.rows), estimates))

    def end(self, job: Job, event: Finished | Failed) -> None:
        job.ended = True
        self.jobs.discard(job)
        job.tell(event)


@functools.cache
def digits_model() -> SamplerModel:
    """Return the digits model as a served one; its worker is another matter."""
    return SamplerModel(digits())


def fake_service(worker: FakeWorker | None = None, settings: Settings | None = None) -> Service:
    """Return a service of the digits model on a fake worker."""
    service = Service(["digits"], settings)
    service.add("digits", Served(digits_model(), worker or FakeWorker()))
    return service


@contextlib.contextmanager
def running(service: Service) -> Iterator[str]:
    """Serve on a free port of the loopback in a thread; give the base URL."""
    config = uvicorn.Config(
        create_app(service), log_config=None, lifespan="on", timeout_graceful_shutdown=2
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(10)


def raw_request(body: dict) -> bytes:
    """Return a request for images as it goes over the wire."""
    text = json.dumps(body)
    return (
        f"POST /v1/images/generations HTTP/1.1\r\nhost: here\r\ncontent-type: application/json\r\n"
        f"content-length: {len(text)}\r\n\r\n{text}"
    ).encode()


def connect(url: str, **options: int) -> socket.socket:
    """Return a connection to a server, with options of sockets such as ``SO_RCVBUF=4096``."""
    host, port = url.removeprefix("http://").split(":")
    connection = socket.socket()
    for option, value in options.items():
        connection.setsockopt(socket.SOL_SOCKET, getattr(socket, option), value)
    connection.connect((host, int(port)))
    return connection


def until(condition, seconds: float = 10.0) -> None:
    """Wait until `condition` holds; fail if it does not within `seconds`."""
    end = time.monotonic() + seconds
    for pause in itertools.chain([0.001, 0.002, 0.005], itertools.repeat(0.01)):
        if condition():
            return
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(pause)


@contextlib.contextmanager
def digits_service(settings: Settings | None = None) -> Iterator[Service]:
    """Give a service of the digits model on a worker of its own, warmed up."""
    service = Service(["digits"], settings)
    observer = service.metrics.observer("digits", "eager float32")
    worker = ModelWorker("digits", digits(), observer=observer)
    served = Served(digits_model(), worker)
    warm_up(served)
    service.add("digits", served)
    try:
        yield service
    finally:
        worker.close()
