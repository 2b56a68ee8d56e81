"""The accuracy certificate: how far a candidate's outputs are from the float32 model's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdiff.denoisers import Denoiser
from fastdiff.exporting import Network
from fastdiff.sampling import Schedule, StepTable, get_solver, run_table

LEVELS = 8
ROWS = 2

#: Largest relative L2 error that a candidate may have, by precision: of its output at any noise
#: level of the reference trajectory, and of the sample at the end of its own.
THRESHOLDS = {"float32": (1e-4, 1e-3), "float16": (2e-2, 1e-2), "bfloat16": (5e-2, 5e-2)}


@dataclass(frozen=True)
class Certificate:
    """Measured error of one candidate against the float32 model.

    Attributes
    ----------
    timesteps : tuple of float
        Where the outputs were compared, from noise to data.
    errors : tuple of float
        ``||candidate - reference||_2 / ||reference||_2`` of the output at each.
    sample_error : float
        The same of the sample, after the candidate ran a trajectory of its own.
    output_threshold, sample_threshold : float
        What these may be.
    """

    timesteps: tuple[float, ...]
    errors: tuple[float, ...]
    sample_error: float
    output_threshold: float
    sample_threshold: float

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Certificate:
        """Read what ``dataclasses.asdict`` wrote."""
        lists = {"timesteps": tuple(record["timesteps"]), "errors": tuple(record["errors"])}
        return cls(**{**record, **lists})

    @property
    def error(self) -> float:
        """The largest of `errors`; NaN when any output was not finite."""
        return math.nan if any(map(math.isnan, self.errors)) else max(self.errors)

    @property
    def refusal(self) -> str | None:
        """Why the candidate must not be used; None when it may."""
        if math.isnan(self.error) or math.isnan(self.sample_error):
            return "its output is not finite"
        if self.error > self.output_threshold:
            return f"output error {self.error:.1e} is over {self.output_threshold:.0e}"
        if self.sample_error > self.sample_threshold:
            return f"sample error {self.sample_error:.1e} is over {self.sample_threshold:.0e}"
        return None


@dataclass(frozen=True)
class Trajectory:
    """What a denoiser saw and answered in a short deterministic sampling run.

    Attributes
    ----------
    inputs : Tensor
        (L, R, C, H, W) float32.
    outputs : Tensor
        (L, R, C or 2C, H, W) float32.
    sample : Tensor
        (R, C, H, W) float64.
    """

    table: StepTable
    noise: Tensor
    conditioning: dict[str, Tensor]
    inputs: Tensor
    outputs: Tensor
    sample: Tensor


def evaluate(denoiser: Denoiser, x: Tensor, t: float, conditioning: dict[str, Tensor]) -> Tensor:
    """Run `denoiser` once on (R, C, H, W) at time `t` and return its output in float32."""
    out = torch.empty(len(x), denoiser.output_channels, *x.shape[2:], dtype=denoiser.output_dtype)
    times = torch.full((len(x),), float(t))
    denoiser.bind(x.to(denoiser.input_dtype).contiguous(), times, conditioning, out)()
    return out.float()


def reference_trajectory(network: Network, denoiser: Denoiser, schedule: Schedule) -> Trajectory:
    """Sample a few rows with the float32 `denoiser` in 8 DDIM steps and keep what it saw."""
    x, _, conditioning = network.example(ROWS)
    return _run(denoiser, reference_table(schedule), x, conditioning)


def reference_table(schedule: Schedule) -> StepTable:
    """Return the 8 steps of DDIM along which certificates are made."""
    steps = min(LEVELS, schedule.num_train_timesteps)
    return get_solver("ddim").table(schedule, steps=steps)


def certify(denoiser: Denoiser, reference: Trajectory) -> Certificate:
    """Measure `denoiser` at every input of `reference`, and along a trajectory of its own."""
    errors = tuple(
        _relative(evaluate(denoiser, x, t, reference.conditioning), expected)
        for x, t, expected in zip(
            reference.inputs, reference.table.t, reference.outputs, strict=True
        )
    )
    own = _run(denoiser, reference.table, reference.noise, reference.conditioning)
    times = tuple(float(t) for t in reference.table.t)
    sample_error = _relative(own.sample, reference.sample)
    return Certificate(times, errors, sample_error, *THRESHOLDS[denoiser.precision])


def _run(
    denoiser: Denoiser, table: StepTable, noise: Tensor, conditioning: dict[str, Tensor]
) -> Trajectory:
    inputs: list[Tensor] = []
    outputs: list[Tensor] = []
    channels = noise.shape[1]

    def model(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], t: float) -> object:
        inputs.append(torch.from_numpy(x).float())
        outputs.append(evaluate(denoiser, inputs[-1], t, conditioning))
        return outputs[-1][:, :channels].double().numpy()

    start = noise.double().numpy() * table.init_noise_sigma
    sample = torch.from_numpy(run_table(table, model, start)[-1])
    return Trajectory(table, noise, conditioning, torch.stack(inputs), torch.stack(outputs), sample)


def _relative(got: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error, NaN if either is not finite."""
    return float((got - expected).norm() / expected.norm().clamp_min(1e-12))
