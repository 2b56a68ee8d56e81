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
_TINY = 1e-12  # keeps the error of an output that should be all zeros a number


@dataclass(frozen=True)
class Limits:
    """The largest errors that a candidate may have.

    Attributes
    ----------
    output : float
        Relative L2 error of an output at any noise level.
    element : float
        Error of any one element, relative to the largest element of the reference's output.
    state : float
        Relative L2 error of the state after any step of a trajectory of its own.
    """

    output: float
    element: float
    state: float


LIMITS = {
    "float32": Limits(output=1e-4, element=1e-3, state=1e-3),
    "float16": Limits(output=2e-2, element=1e-1, state=1e-2),
    "bfloat16": Limits(output=5e-2, element=2e-1, state=5e-2),
    "int8": Limits(output=5e-2, element=2e-1, state=5e-2),
}


@dataclass(frozen=True)
class Certificate:
    """Measured error of one candidate against the float32 model; prints as a table.

    Attributes
    ----------
    timesteps : tuple of float
        The noise levels at which outputs were compared, from noise to data; up to a fault.
    errors : tuple of float
        ``||candidate - reference||_2 / ||reference||_2`` of the output at each.
    max_errors : tuple of float
        ``max |candidate - reference| / max |reference|`` of the output at each.
    growth : tuple of float
        Relative L2 error of the state after each step, when the candidate runs the trajectory by
        itself and so meets its own errors again. Empty after a fault.
    limits : Limits
        What these may be.
    fault : str or None
        What no number tells: an output that is not finite, or constant where it should not be.
    """

    timesteps: tuple[float, ...]
    errors: tuple[float, ...]
    max_errors: tuple[float, ...]
    growth: tuple[float, ...]
    limits: Limits
    fault: str | None = None

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Certificate:
        """Read what ``dataclasses.asdict`` wrote."""
        lists = {
            name: tuple(float(value) for value in record[name])
            for name in ("timesteps", "errors", "max_errors", "growth")
        }
        return cls(**lists, limits=Limits(**record["limits"]), fault=record["fault"])

    @property
    def error(self) -> float:
        """The largest of `errors`; NaN after a fault."""
        return math.nan if self.fault else max(self.errors)

    @property
    def sample_error(self) -> float:
        """Relative L2 error of the sample, at the end of `growth`; NaN after a fault."""
        return math.nan if self.fault else self.growth[-1]

    @property
    def refusal(self) -> str | None:
        """Why the candidate must not be used; None when it may."""
        if self.fault is not None:
            return self.fault
        for what, where, measured, limit in (
            ("output", self._level, self.errors, self.limits.output),
            ("largest element", self._level, self.max_errors, self.limits.element),
            ("trajectory", self._step, self.growth, self.limits.state),
        ):
            worst = max(measured)
            if worst > limit:
                place = where(measured.index(worst))
                return f"{what} error {worst:.1e} {place} is over {limit:.0e}"
        return None

    def _level(self, index: int) -> str:
        return f"at t = {self.timesteps[index]:.4g}"

    def _step(self, index: int) -> str:
        return f"after step {index + 1} of {len(self.growth)}"

    def __str__(self) -> str:
        columns = [
            ["t", *(f"{t:.4g}" for t in self.timesteps), "limit"],
            ["output", *map(_short, self.errors), f"{self.limits.output:.0e}"],
            ["element", *map(_short, self.max_errors), f"{self.limits.element:.0e}"],
        ]
        if self.growth:
            columns.append(["state after", *map(_short, self.growth), f"{self.limits.state:.0e}"])
        lines = ["".join(cell.rjust(13) for cell in row) for row in zip(*columns, strict=True)]
        return "\n".join([*lines, f"refused: {self.refusal}" if self.refusal else "passed"])


@dataclass(frozen=True)
class Trajectory:
    """A short deterministic sampling run: where it went and what the denoiser answered.

    Attributes
    ----------
    table : StepTable
        L steps.
    conditioning : dict of str to Tensor
        (R, ...) each.
    states : Tensor
        (L + 1, R, C, H, W) float64: x from pure noise to the sample.
    outputs : Tensor
        (L, R, C or 2C, H, W) float32.
    """

    table: StepTable
    conditioning: dict[str, Tensor]
    states: Tensor
    outputs: Tensor

    @property
    def inputs(self) -> Tensor:
        """What the denoiser saw: c_in x, (L, R, C, H, W) float32."""
        c_in = torch.tensor(self.table.c_in).view(-1, 1, 1, 1, 1)
        return (self.states[:-1] * c_in).float()


def evaluate(denoiser: Denoiser, x: Tensor, t: float, conditioning: dict[str, Tensor]) -> Tensor:
    """Run `denoiser` once on (R, C, H, W) at time `t`; return its output in float32 on the host."""
    device, shape = denoiser.device, (len(x), denoiser.output_channels, *x.shape[2:])
    out = torch.empty(shape, dtype=denoiser.output_dtype, device=device)
    times = torch.full((len(x),), float(t), dtype=torch.float32, device=device)
    placed = {name: value.to(device) for name, value in conditioning.items()}
    denoiser.bind(x.to(device, denoiser.input_dtype).contiguous(), times, placed, out)()
    return out.cpu().float()


def reference_trajectory(
    network: Network, denoiser: Denoiser, schedule: Schedule, rows: int = ROWS, seed: int = 0
) -> Trajectory:
    """Sample a few rows with the float32 `denoiser` in 8 DDIM steps and keep what it saw."""
    x, _, conditioning = network.example(rows, seed)
    table = reference_table(schedule)
    return _run(denoiser, table, conditioning, x.double() * table.init_noise_sigma)


def reference_table(schedule: Schedule) -> StepTable:
    """Return the 8 steps of DDIM along which certificates are made."""
    steps = min(LEVELS, schedule.num_train_timesteps)
    return get_solver("ddim").table(schedule, steps=steps)


def certify(denoiser: Denoiser, reference: Trajectory) -> Certificate:
    """Measure `denoiser` at every input of `reference`, and along a trajectory of its own.

    The first fault ends it: what follows would tell nothing more.
    """
    limits = LIMITS[denoiser.precision]
    times: list[float] = []
    errors: list[float] = []
    max_errors: list[float] = []
    for x, t, expected in zip(
        reference.inputs, reference.table.t.tolist(), reference.outputs, strict=True
    ):
        got = evaluate(denoiser, x, t, reference.conditioning)
        fault = _fault(got, expected)
        if fault is not None:
            fault = f"{fault} at t = {t:.4g}"
            return Certificate(tuple(times), tuple(errors), tuple(max_errors), (), limits, fault)
        times.append(t)
        errors.append(_relative(got, expected))
        max_errors.append(_largest(got, expected))
    own = _run(denoiser, reference.table, reference.conditioning, reference.states[0])
    pairs = zip(own.states[1:], reference.states[1:], strict=True)
    growth = tuple(_relative(got, expected) for got, expected in pairs)
    if not all(map(math.isfinite, growth)):
        growth, fault = (), "a trajectory of its own does not stay finite"
    return Certificate(tuple(times), tuple(errors), tuple(max_errors), growth, limits, fault)


def _run(
    denoiser: Denoiser, table: StepTable, conditioning: dict[str, Tensor], start: Tensor
) -> Trajectory:
    outputs: list[Tensor] = []
    channels = start.shape[1]

    def model(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], t: float) -> object:
        outputs.append(evaluate(denoiser, torch.from_numpy(x).float(), t, conditioning))
        return outputs[-1][:, :channels].double().numpy()

    states = torch.from_numpy(run_table(table, model, start.numpy()))
    return Trajectory(table, conditioning, torch.cat([start[None], states]), torch.stack(outputs))


def _short(error: float) -> str:
    return f"{error:.1e}"


def _fault(got: Tensor, expected: Tensor) -> str | None:
    if not expected.isfinite().all():
        return "the float32 model's own output is not finite"
    if not got.isfinite().all():
        return "its output is not finite"
    if (_constant(got) & ~_constant(expected)).any():
        return "its output is constant, which the float32 model's is not,"
    return None


def _constant(output: Tensor) -> Tensor:
    """Return which rows of (R, ...) have the same number everywhere."""
    rows = output.flatten(1)
    return rows.amax(1) == rows.amin(1)


def _relative(got: Tensor, expected: Tensor) -> float:
    """Return the relative L2 error, NaN if either is not finite."""
    return float((got - expected).norm() / expected.norm().clamp_min(_TINY))


def _largest(got: Tensor, expected: Tensor) -> float:
    """Return the largest error of an element, relative to the largest element."""
    return float((got - expected).abs().max() / expected.abs().max().clamp_min(_TINY))
