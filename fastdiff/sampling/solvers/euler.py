"""Euler's method in sigma / alpha, plain and ancestral, as in k-diffusion."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import (
    Float64Array,
    Solver,
    check_number,
    clip_limit,
    final_level,
    first_order_update,
    ve_grid,
)
from fastdiff.sampling.table import StepTable


@dataclass(frozen=True)
class Euler(Solver, name="euler", scheduler="EulerDiscreteScheduler"):
    """Euler's method on dx/dsigma = (x - D) / sigma: EDM, arXiv 2206.00364, Algorithm 1.

    It is that algorithm without its second-order correction.

    The state is x / alpha, of level (1, sigma / alpha), so the initial noise is large and the
    network sees c_in x. The same step in training coordinates is DDIM.

    Parameters
    ----------
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    clip_sample: bool = False
    clip_sample_range: float | None = None
    fractional_times: ClassVar[bool] = True

    def _build(self, schedule: Schedule, times: Float64Array, compat: bool) -> StepTable:
        return self._euler(schedule, times, compat, eta=0.0)

    def _euler(
        self, schedule: Schedule, times: Float64Array, compat: bool, eta: float
    ) -> StepTable:
        grid = ve_grid(schedule, times, final_level(schedule), floor=compat)
        # diffusers forgets the data's share of the first level unless the spacing is leading.
        forgets = compat and schedule.timestep_spacing != "leading"
        return self._assemble(
            schedule,
            grid,
            first_order_update(schedule, grid, eta),
            clip=clip_limit(schedule, self.clip_sample, self.clip_sample_range),
            init_noise_sigma=float(grid.sigma[0]) if forgets else math.nan,
        )


@dataclass(frozen=True)
class EulerAncestral(Euler, name="euler_ancestral", scheduler="EulerAncestralDiscreteScheduler"):
    """Euler's method to a lower level, then fresh noise up to the next one (k-diffusion).

    Parameters
    ----------
    eta : float
        Share of the fresh noise, 0 to 1; 0 is `Euler`.
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    eta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, 0.0, 1.0)

    def _build(self, schedule: Schedule, times: Float64Array, compat: bool) -> StepTable:
        return self._euler(schedule, times, compat, self.eta)
