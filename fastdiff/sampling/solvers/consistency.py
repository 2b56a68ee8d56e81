"""Samplers that denoise and add fresh noise: consistency models and LCM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.checks import check_number, whole_number
from fastdiff.sampling.path import Path
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.grid import broken_levels, clip_limit, final_level, training_grid
from fastdiff.sampling.table import StepTable


@dataclass(frozen=True)
class Consistency(Solver, name="consistency", schedulers=("FlowMatchEulerDiscreteScheduler",)):
    """Multistep consistency sampling, arXiv 2303.01469, Algorithm 1: x' = alpha' D + s z.

    It is for networks that predict the data from any noise level at once. The last step returns the
    prediction. A network that takes sigma itself needs ``Schedule(process="ve")``, for which
    ``sigmas=`` and ``timesteps=`` are the same.

    Parameters
    ----------
    sigma_data_end : float
        Noise level of what the network predicts, epsilon in the paper. The fresh noise has
        deviation s = sqrt(sigma'^2 - epsilon^2), which is sigma' for the default, 0.
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    sigma_data_end: float = 0.0
    clip_sample: bool = False
    clip_sample_range: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("sigma_data_end", self.sigma_data_end, 0.0, 1.0)

    @classmethod
    def runs(cls, config: Mapping[str, Any]) -> bool:
        """Whether a flow-matching configuration asks for fresh noise in every step."""
        return bool(config.get("stochastic_sampling"))

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        grid = training_grid(schedule, path, final_level(schedule, path))
        update = np.zeros((len(grid), 1, 4))
        update[:, 0, 1] = grid.alpha_to
        update[:, 0, 3] = np.sqrt(np.maximum(0.0, grid.sigma_to**2 - self.sigma_data_end**2))
        reason = "the network's answers are taken to have noise of their own"
        waived = broken_levels(grid, update, reason)
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        return self._assemble(schedule, grid, update, clip=clip, waived=waived)


@dataclass(frozen=True)
class LCM(Solver, name="lcm", schedulers=("LCMScheduler",)):
    """Latent consistency models, arXiv 2310.04378, Algorithm 3.

    As `Consistency`, but with the prediction f = c_skip x + c_out D of eq. 9, which is x itself at
    time 0. The times are chosen from those of distillation.

    Parameters
    ----------
    original_inference_steps : int
        How many evenly spaced times the model was distilled on; steps are chosen among them.
    timestep_scaling : float
        c_skip = 1/4 / (u^2 + 1/4) and c_out = u / sqrt(u^2 + 1/4) at u = timestep_scaling t.
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    original_inference_steps: int = 50
    timestep_scaling: float = 10.0
    clip_sample: bool = False
    clip_sample_range: float | None = None
    reads = ("clip_sample",)

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("original_inference_steps", self.original_inference_steps, 1)
        check_number("timestep_scaling", self.timestep_scaling, 1e-6, 1e6)

    def _path(
        self,
        schedule: Schedule,
        steps: int | None,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        compat: bool,
    ) -> Path:
        if schedule.process != "vp":
            raise InvalidArgument(
                f"lcm was distilled on discrete times, which process {schedule.process!r} does "
                "not have; use 'consistency'"
            )
        if steps is not None and timesteps is None and sigmas is None:
            most = min(self.original_inference_steps, schedule.num_train_timesteps)
            steps = whole_number("steps", steps, 1, most)
            stride = schedule.num_train_timesteps // most
            distilled = np.arange(most, 0, -1) * float(stride) - 1.0
            chosen = np.linspace(0, most, steps, endpoint=False).astype(int)
            timesteps = distilled[chosen].tolist()
        return super()._path(schedule, steps, timesteps, sigmas, compat)

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        grid = training_grid(schedule, path, (1.0, 0.0))
        scaled = self.timestep_scaling * path.t
        c_skip = 0.25 / (scaled**2 + 0.25)
        c_out = scaled / np.sqrt(scaled**2 + 0.25)
        update = np.zeros((len(grid), 1, 4))
        update[:, 0, 0] = grid.alpha_to * c_skip
        update[:, 0, 1] = grid.alpha_to * c_out
        update[:, 0, 3] = grid.sigma_to
        waived = broken_levels(grid, update, "the answer mixes in x, more so towards time 0")
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        return self._assemble(schedule, grid, update, clip=clip, waived=waived)
