"""Whole samples against the diffusers pipeline, and what the engine itself costs per step."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import torch
from diffusers import DDIMPipeline, DDIMScheduler
from torch import nn

import fastdiff
import fastdiff.engine.host_executor as host_module
from fastdiff.backends import Denoiser
from fastdiff.bench.timing import Spread, interleave, ratio
from fastdiff.engine.engine import Engine
from fastdiff.engine.requests import Request
from fastdiff.models import NULL_CLASS, digits_schedule_config, load_digits
from fastdiff.networks import Conditioning, Network
from fastdiff.sampling import Schedule, get_solver


class UnconditionalDigits(nn.Module):
    """The digits model as the U-Net of a diffusers pipeline: null class, diffusers' signature."""

    dtype, device = torch.float32, torch.device("cpu")
    config = SimpleNamespace(in_channels=1, sample_size=8)

    def __init__(self) -> None:
        super().__init__()
        self.model = load_digits()

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> Any:
        t = torch.as_tensor(timestep, dtype=torch.float32).expand(len(sample))
        labels = torch.full((len(sample),), NULL_CLASS)
        return SimpleNamespace(sample=self.model(sample, t, labels))


def peer_pipeline() -> DDIMPipeline:
    """Return diffusers' own DDIM pipeline around the digits model, as its documentation says."""
    config = {k: v for k, v in digits_schedule_config().items() if not k.startswith("_")}
    pipeline = DDIMPipeline(UnconditionalDigits().eval(), DDIMScheduler.from_config(config))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def pipeline_difference(sampler: fastdiff.Sampler, steps: int = 50) -> float:
    """Largest pixel difference, of full scale 2, to the pipeline from the same latents."""
    import diffusers.pipelines.ddim.pipeline_ddim as module

    z = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with mock.patch.object(module, "randn_tensor", return_value=z.clone()):
        images = peer_pipeline()(batch_size=4, num_inference_steps=steps, output_type="np").images
    expected = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
    got = sampler.sample(latents=z, steps=steps, compat="diffusers").clamp(-1, 1)
    return float((got - expected).abs().max())


def pipelines(steps: int = 50, rounds: int = 7) -> list[dict[str, Any]]:
    """Time `sampler.sample` and the float32 pipeline with the same weights, steps and batch."""
    sampler = fastdiff.compile("digits")
    pipeline = peer_pipeline()
    results = []
    for batch in (1, 4, 16):
        seconds = interleave(
            {
                "fastdiff": lambda n=batch: sampler.sample(n, steps=steps, seed=0),
                "diffusers": lambda n=batch: pipeline(
                    batch_size=n, num_inference_steps=steps, output_type="np"
                ),
            },
            rounds,
        )
        results.append(
            {
                "batch": batch,
                "ran_on": sampler.report.serving(batch).name,
                "fastdiff_ms": Spread.of(seconds["fastdiff"]).median * 1e3,
                "diffusers_ms": Spread.of(seconds["diffusers"]).median * 1e3,
                "ratio": ratio(seconds["diffusers"], seconds["fastdiff"]),
                "difference": pipeline_difference(sampler),
            }
        )
    return results


class _NoModel(Denoiser):
    """A denoiser that costs nothing, so that a tick is the engine alone."""

    backend, precision = "none", "float32"
    input_dtype = output_dtype = torch.float32

    def __init__(self, channels: int) -> None:
        self.output_channels = channels

    def bind(self, x: Any, t: Any, conditioning: Any, out: torch.Tensor) -> Callable[[], object]:
        out.zero_()
        return lambda: None


class _Stopwatch:
    """Counts the seconds spent inside a function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.seconds = function, 0.0

    def __call__(self, **arrays: Any) -> Any:
        begin = time.perf_counter()
        result = self.function(**arrays)
        self.seconds += time.perf_counter() - begin
        return result


def overhead(batch: int = 8, steps: int = 200, rounds: int = 9) -> list[dict[str, Any]]:
    """Microseconds of a tick beyond the denoiser and the step kernel."""
    labels = {"class_labels": Conditioning(num_classes=10, null=10)}
    results = []
    for shape in ((1, 8, 8), (4, 64, 64)):
        network = Network(_Signature(), shape, labels)
        for guidance in (1.0, 2.0):
            engine = Engine(network, _NoModel(shape[0]), {2 * batch: 1.0})
            table = get_solver("ddim").table(Schedule(), steps=steps).pack()
            request = Request(
                table,
                np.zeros(batch, np.uint64),
                np.arange(batch, dtype=np.uint64),
                np.full(batch, guidance, np.float32),
            )
            spent = []
            for _ in range(rounds):
                watch = _Stopwatch(host_module.step)
                with mock.patch.object(host_module, "step", watch):
                    ticket = engine.submit(request)
                    engine.advance(ticket)  # admission and layout, once per request
                    watch.seconds = 0.0
                    begin = time.perf_counter()
                    while not ticket.done:
                        engine.advance(ticket)
                    total = time.perf_counter() - begin
                    ticket.result()
                spent.append((total - watch.seconds) / (steps - 1) * 1e6)
            results.append(
                {"shape": shape, "batch": batch, "guidance": guidance, "us": Spread.of(spent)}
            )
    return results


class _Signature(nn.Module):
    def forward(self, x: torch.Tensor, t: torch.Tensor, class_labels: torch.Tensor) -> None: ...
