"""The accuracy certificate: how far a candidate's outputs are from the float32 model's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fastdiff.denoisers import Denoiser
from fastdiff.exporting import Network
from fastdiff.sampling import Schedule, get_solver, run_table

LEVELS = 8
ROWS = 2

#: Largest relative L2 error that a candidate may have at any noise level, by precision.
THRESHOLDS = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass(frozen=True)
class Certificate:
    """Measured error of one candidate against the float32 model.

    Attributes
    ----------
    timesteps : tuple of float
        Where it was measured, from noise to data.
    errors : tuple of float
        ``||candidate - reference||_2 / ||reference||_2`` at each.
    threshold : float
        What the largest may be.
    """

    timesteps: tuple[float, ...]
    errors: tuple[float, ...]
    threshold: float

    @property
    def error(self) -> float:
        """The largest of `errors`; NaN when an output was not finite."""
        return max(self.errors, key=lambda e: float("inf") if e != e else e)

    @property
    def refusal(self) -> str | None:
        """Why the candidate must not be used; None when it may."""
        if self.error != self.error:
            return "its output is not finite"
        if self.error > self.threshold:
            return f"error {self.error:.1e} is over {self.threshold:.0e}"
        return None


@dataclass(frozen=True)
class Probe:
    """Inputs taken from a real trajectory of the float32 model, with its outputs."""

    x: Tensor  # (L, R, C, H, W)
    t: Tensor  # (L,)
    conditioning: dict[str, Tensor]  # (R, ...) each
    outputs: Tensor  # (L, R, C or 2C, H, W)


def evaluate(denoiser: Denoiser, x: Tensor, t: Tensor, conditioning: dict[str, Tensor]) -> Tensor:
    """Run `denoiser` once on (B, C, H, W) and return its output in float32."""
    shape = (len(x), denoiser.output_channels, *x.shape[2:])
    out = torch.empty(shape, dtype=denoiser.output_dtype)
    denoiser.bind(x.to(denoiser.input_dtype).contiguous(), t, conditioning, out)()
    return out.float()


def trajectory(network: Network, reference: Denoiser, schedule: Schedule) -> Probe:
    """Sample a few rows with the float32 `reference` in 8 DDIM steps and keep what it saw."""
    x, _, conditioning = network.example(ROWS)
    table = get_solver("ddim", eta=0.0).table(
        schedule, steps=min(LEVELS, schedule.num_train_timesteps)
    )
    seen: list[Tensor] = []
    outputs: list[Tensor] = []
    channels = network.sample_shape[0]

    def model(x_in, t):  # type: ignore[no-untyped-def]
        seen.append(torch.from_numpy(x_in).float())
        times = torch.full((ROWS,), float(t))
        outputs.append(evaluate(reference, seen[-1], times, conditioning))
        return outputs[-1][:, :channels].double().numpy()

    run_table(table, model, x.double().numpy() * table.init_noise_sigma)
    t = torch.tensor([float(v) for v in table.t])
    return Probe(torch.stack(seen), t, conditioning, torch.stack(outputs))


def certify(denoiser: Denoiser, probe: Probe) -> Certificate:
    """Measure `denoiser` on `probe`."""
    errors = []
    for x, t, expected in zip(probe.x, probe.t, probe.outputs, strict=True):
        got = evaluate(denoiser, x, t.expand(len(x)).contiguous(), probe.conditioning)
        scale = expected.norm().clamp_min(1e-12)
        errors.append(float((got - expected).norm() / scale))
    times = tuple(float(t) for t in probe.t)
    return Certificate(times, tuple(errors), THRESHOLDS[denoiser.precision])
