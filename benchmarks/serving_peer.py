"""The peer of `benchmarks.serving`: diffusers' own loop behind fastdiff's HTTP front and a queue.

``python -m benchmarks.serving_peer MODEL --port PORT`` serves it until a signal comes. It takes one
request at a time, as a service written around a pipeline does; its batch is the request's images.
"""

from __future__ import annotations

import argparse
import queue
import threading
import time
import warnings

import diffusers
import torch
from torch import Tensor

import fastdiff
from fastdiff.bench.peers import make_scheduler
from fastdiff.compiler import describe
from fastdiff.engine.requests import Request
from fastdiff.errors import Cancelled, Overloaded
from fastdiff.serving.events import Failed, Finished, Listener
from fastdiff.serving.jobs import Job, WorkerStatus
from fastdiff.serving.models import Served
from fastdiff.serving.sampler_model import SamplerModel
from fastdiff.serving.server import listen, run_server
from fastdiff.serving.service import Service

_MAX_ROWS = 256  # as `fastdiff serve --max-queue` has it


class DiffusersWorker:
    """Runs requests one after the other (`fastdiff.serving.jobs.Worker`).

    Parameters
    ----------
    name : str
        A model's name, as `fastdiff.compile` takes it.
    """

    def __init__(self, name: str) -> None:
        self.name, self.rows, self.lock = name, 0, threading.Lock()
        self.waiting: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._network, self._schedule = describe(name)
        self._module = self._network.require_module().eval()
        self._step_seconds = 0.0
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def reserve(self, job: Job) -> None:
        with self.lock:
            if self.rows + job.rows > _MAX_ROWS and self.rows:
                raise Overloaded("the queue is full", job.steps * self._step_seconds)
            self.rows += job.rows
            job.arrival = time.monotonic()
            job.estimate_seconds = self.rows * job.steps * self._step_seconds

    def run(
        self, job: Job, request: Request, listener: Listener, *, progress_every: int = 0
    ) -> None:
        with self.lock:
            job.accept(request, listener, progress_every)
        self.waiting.put(job)

    def cancel(self, job: Job) -> None:
        self._end(job, Failed(Cancelled("the request was cancelled")))

    def status(self) -> WorkerStatus:
        return WorkerStatus("ready", self.rows, 0, self.rows, 0.0, 0.0, {})

    def close(self) -> None:
        """End the thread behind what waits."""
        self.waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (job := self.waiting.get()) is not None:
            if job.ended:
                continue
            begin = time.monotonic()
            job.begin(begin)
            try:
                samples = self._sample(job.request)
            except Exception as error:
                self._end(job, Failed(error))
                continue
            seconds = time.monotonic() - begin
            self._step_seconds = seconds / job.steps
            self._end(job, Finished(samples, job.queue_seconds, seconds))

    def _end(self, job: Job, event: Finished | Failed) -> None:
        with self.lock:
            if job.ended:
                return
            job.ended = True
            self.rows -= job.rows
        job.tell(event)

    @torch.inference_mode()
    def _sample(self, request: Request) -> Tensor:
        """Run the loop of diffusers' guide "Understanding pipelines, models and schedulers"."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # diffusers warns of NumPy's and its own deprecations
            scheduler = make_scheduler("ddim", self._schedule.to_config())
            scheduler.set_timesteps(request.steps)
            generator = torch.Generator().manual_seed(int(request.seeds[0]) % 2**63)
            x = torch.randn(request.rows, *self._network.sample_shape, generator=generator)
            x *= scheduler.init_noise_sigma
            inputs = {
                name: request.conditioning.get(name, spec.null_value().expand(request.rows))
                for name, spec in self._network.conditioning.items()
            }
            for t in scheduler.timesteps:
                scaled = scheduler.scale_model_input(x, t)
                output = self._module(scaled, t.float().expand(len(x)), **inputs)
                x = scheduler.step(output, t, x).prev_sample
        return x


def main() -> None:
    """Serve the peer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving_peer", description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--port", type=int, required=True)
    options = parser.parse_args()
    diffusers.logging.set_verbosity_error()  # it names what it does not know in a config
    service = Service([options.model])

    def load() -> None:
        # The front asks a compiled model what requests may say; it samples nothing here.
        front = SamplerModel(fastdiff.compile(options.model, backend="eager", precision="float32"))
        service.add(options.model, Served(front, worker))

    worker = DiffusersWorker(options.model)
    run_server(service, load, listen("127.0.0.1", options.port, write_seconds=20.0), 0.0)
    worker.close()


if __name__ == "__main__":
    main()
