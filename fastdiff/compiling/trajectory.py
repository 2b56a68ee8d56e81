"""A sampling run of the float32 model, which every backend is compared with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fastdiff.backends import Denoiser
from fastdiff.compiling.probing import MOST_PROBES, NO_PROBES, Probes, make_probes
from fastdiff.errors import InvalidShape
from fastdiff.networks import Network
from fastdiff.sampling import Schedule, StepTable, get_solver, run_table

_LEVELS, _ROWS = 8, 2


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
        (L + 1, R, C, ...) float64: x from pure noise to the sample.
    outputs : Tensor
        (L, R, C or 2C, ...) float32.
    probes : Probes
        What it answers to other conditioning, for the first row's x halfway.
    """

    table: StepTable
    conditioning: dict[str, Tensor]
    states: Tensor
    outputs: Tensor
    probes: Probes = NO_PROBES

    @property
    def inputs(self) -> Tensor:
        """What the denoiser saw: c_in x, (L, R, C, ...) float32."""
        c_in = torch.tensor(self.table.c_in).view(-1, *[1] * (self.states.ndim - 1))
        return (self.states[:-1] * c_in).float()

    def probe(self, denoiser: Denoiser, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Return what `denoiser` answers to rows of conditioning, (P, C or 2C, ...) float32."""
        level, rows = len(self.table) // 2, len(next(iter(conditioning.values())))
        x = self.inputs[level, :1].repeat_interleave(rows, 0)
        return evaluate(denoiser, x, float(self.table.t[level]), conditioning)


def evaluate(
    denoiser: Denoiser, x: Tensor, t: float | Tensor, conditioning: Mapping[str, Tensor]
) -> Tensor:
    """Run `denoiser` once on (R, C, ...) at time `t`, one for all rows or (R,).

    Returns
    -------
    Tensor
        Its output in float32 on the host.
    """
    device, shape = denoiser.device, (len(x), denoiser.output_channels, *x.shape[2:])
    out = torch.empty(shape, dtype=denoiser.output_dtype, device=device)
    times = torch.as_tensor(t, dtype=torch.float32).expand(len(x)).contiguous().to(device)
    placed = {name: value.to(device) for name, value in conditioning.items()}
    denoiser.bind(x.to(device, denoiser.input_dtype).contiguous(), times, placed, out)()
    return out.cpu().float()


def reference_trajectory(network: Network, denoiser: Denoiser, schedule: Schedule) -> Trajectory:
    """Sample a few rows with the float32 `denoiser`, keep what it saw, and probe it."""
    run = sampling_run(network, denoiser, schedule)
    return replace(run, probes=make_probes(network, lambda rows: run.probe(denoiser, rows)))


def sampling_run(
    network: Network, denoiser: Denoiser, schedule: Schedule, rows: int = _ROWS, seed: int = 0
) -> Trajectory:
    """Sample `rows` rows with the float32 `denoiser` in 8 DDIM steps and keep what it saw."""
    x, _, conditioning = network.example(rows, seed)
    table = reference_table(schedule)
    return run_from(denoiser, table, conditioning, x.double() * table.init_noise_sigma)


def reference_table(schedule: Schedule) -> StepTable:
    """Return the 8 steps of DDIM along which certificates are made."""
    steps = min(_LEVELS, schedule.num_train_timesteps)
    return get_solver("ddim").table(schedule, steps=steps)


def run_from(
    denoiser: Denoiser, table: StepTable, conditioning: dict[str, Tensor], start: Tensor
) -> Trajectory:
    """Take the steps of `table` with `denoiser` from `start`, (R, C, ...) float64."""
    outputs: list[Tensor] = []
    channels = start.shape[1]

    def model(x: np.ndarray[tuple[int, ...], np.dtype[np.float64]], t: float) -> object:
        outputs.append(evaluate(denoiser, torch.from_numpy(x).float(), t, conditioning))
        return outputs[-1][:, :channels].double().numpy()

    states = torch.from_numpy(run_table(table, model, start.numpy()))
    return Trajectory(table, conditioning, torch.cat([start[None], states]), torch.stack(outputs))


def to_tensors(reference: Trajectory) -> dict[str, Tensor]:
    """Return what `from_tensors` makes an equal trajectory of, by names for a file."""
    probes = reference.probes
    own = {
        "states": reference.states,
        "outputs": reference.outputs,
        "probes.outputs": probes.outputs,
        "probes.far": probes.far,
    }
    own |= {f"conditioning.{k}": v for k, v in reference.conditioning.items()}
    own |= {f"probes.conditioning.{k}": v for k, v in probes.conditioning.items()}
    return {name: value.contiguous() for name, value in own.items()}


def from_tensors(tensors: Mapping[str, Tensor], network: Network, schedule: Schedule) -> Trajectory:
    """Rebuild a trajectory from a file.

    Raises
    ------
    InvalidShape
        A tensor is missing, or has not the shape that the network's has.
    """
    table = reference_table(schedule)
    rows, levels = tensors["outputs"].shape[1], len(table)
    channels, *sizes = network.sample_shape
    probes, own = len(tensors["probes.far"]), network.conditioning.items()
    shapes = {
        "states": (levels + 1, rows, channels, *sizes),
        "outputs": (levels, rows, network.output_channels, *sizes),
        "probes.outputs": (probes, network.output_channels, *sizes),
        "probes.far": (min(probes, MOST_PROBES),),
    }
    shapes |= {f"conditioning.{k}": (rows, *v.shape) for k, v in own}
    shapes |= {f"probes.conditioning.{k}": (probes, *v.shape) for k, v in own}
    if set(tensors) != set(shapes):
        raise InvalidShape(f"the reference holds {sorted(tensors)}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise InvalidShape(
                f"the reference's {name} is {tuple(tensors[name].shape)}, not {shape}"
            )
    conditioning = {k: tensors[f"conditioning.{k}"] for k in network.conditioning}
    asked = {k: tensors[f"probes.conditioning.{k}"] for k in network.conditioning}
    return Trajectory(
        table,
        conditioning,
        tensors["states"],
        tensors["outputs"],
        Probes(asked, tensors["probes.outputs"], tensors["probes.far"]),
    )
