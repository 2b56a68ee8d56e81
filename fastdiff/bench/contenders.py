"""What `fastdiff bench` compares: fastdiff's backends and its peers, each behind one small face."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

import fastdiff
from fastdiff.networks import Network

_PEER_NAMES = {
    "diffusers": "diffusers",
    "torch.compile": "diffusers torch.compile",
    "onnxruntime": "plain onnxruntime",
    "openvino": "plain openvino",
}
PEERS = tuple(_PEER_NAMES)


@dataclass(frozen=True)
class Contender:
    """One way to sample a model.

    Attributes
    ----------
    backend : str
        ``"auto"`` or a backend of fastdiff; for a peer, one of `PEERS`.
    precision : str
        What is asked for; ``"auto"`` leaves it to fastdiff, and to a peer's own defaults.
    peer : bool
        Whether it is another library.
    """

    backend: str
    precision: str
    peer: bool = False

    @property
    def name(self) -> str:
        """For people, and unique in a run."""
        shown = "" if self.precision == "auto" else f" {self.precision}"
        return (_PEER_NAMES[self.backend] if self.peer else f"fastdiff {self.backend}") + shown


#: What every ratio is to: the model as its users run it today.
BASELINE = Contender("diffusers", "float32", peer=True)


@dataclass(frozen=True)
class Workload:
    """What is sampled in one turn: `batch` images in `steps` steps."""

    batch: int
    solver: str
    steps: int


@dataclass(frozen=True)
class TurnTimes:
    """One turn's seconds: of the whole sample, and of each step."""

    seconds: float
    step_seconds: list[float]


class Runner(Protocol):
    """A contender that is ready.

    Attributes
    ----------
    network : Network
        What it samples.
    backend, precision : str
        What it turned out to use.
    error : float or None
        Error of a sample against the float32 model where the contender certified it itself.
    """

    network: Network
    backend: str
    precision: str
    error: float | None

    def prepare(self, load: Workload) -> None:
        """Do what is done once for `load`."""
        ...

    def sample(self, load: Workload, latents: Tensor) -> tuple[Tensor, TurnTimes]:
        """Sample from (B, C, H, W) standard normal latents and time it."""
        ...


def inputs(network: Network, batch: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the latents and the conditioning that every contender samples from."""
    x, _, conditioning = network.example(batch, seed=1)
    return x, conditioning


class FastdiffRunner:
    """`fastdiff.compile`, driven step by step."""

    def __init__(self, model: str, contender: Contender) -> None:
        self._sampler = fastdiff.compile(
            model, backend=contender.backend, precision=contender.precision
        )
        self.network = self._sampler.network
        self._use(1)

    def prepare(self, load: Workload) -> None:
        """Note which backend serves this batch; what was compiled serves every load."""
        self._use(load.batch)

    def _use(self, rows: int) -> None:
        serving = self._sampler.report.serving(rows)
        self.backend, self.precision = serving.backend, serving.precision
        self.error = serving.certificate.sample_error if serving.certificate else None

    def sample(self, load: Workload, latents: Tensor) -> tuple[Tensor, TurnTimes]:
        """Run the backend step by step and time it."""
        conditioning: Any = inputs(self.network, load.batch)[1]
        steps = []
        begin = last = time.perf_counter()
        engine = self._sampler.engine
        ticket = engine.submit(
            self._sampler.request(
                load.batch,
                solver=load.solver,
                steps=load.steps,
                latents=latents,
                seed=0,
                compat="diffusers",
                **conditioning,
            )
        )
        while not ticket.done:
            engine.advance(ticket)
            now = time.perf_counter()
            steps.append(now - last)
            last = now
        images = ticket.result()
        return images, TurnTimes(time.perf_counter() - begin, steps)


def open_runner(model: str, contender: Contender, onnx: Path | None) -> Runner:
    """Load and compile what `contender` needs; `onnx` is the exported network for who reads it.

    Raises
    ------
    FastdiffError
        It cannot run here.
    """
    torch.manual_seed(0)
    if not contender.peer:
        return FastdiffRunner(model, contender)
    from fastdiff.bench.peers import PeerRunner

    return PeerRunner(model, contender, onnx)
