"""Euler's method in sigma / alpha, plain and ancestral, as in k-diffusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fastdiff.sampling.checks import check_number
from fastdiff.sampling.path import Path, PathRules
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.grid import (
    clip_limit,
    final_level,
    first_order_update,
    forgetful_start,
    straight_grid,
)
from fastdiff.sampling.table import StepTable


@dataclass(frozen=True)
class Euler(
    Solver,
    name="euler",
    schedulers=(
        "EulerDiscreteScheduler",
        "EDMEulerScheduler",
        "FlowMatchEulerDiscreteScheduler",
    ),
):
    """Euler's method on dx/dsigma = (x - D) / sigma: EDM, arXiv 2206.00364, Algorithm 1.

    It is that algorithm without its second-order correction.

    On a vp schedule the state is x / alpha, with noise level (1, sigma / alpha), so the initial
    noise is large and the network sees c_in x. In the coordinates of training the same step is
    DDIM. On a flow schedule it is the Euler step of rectified flow, x' = x + (sigma' - sigma) m.

    Parameters
    ----------
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    clip_sample: bool = False
    clip_sample_range: float | None = None
    rules: ClassVar[PathRules] = PathRules(fractional=True, floor=True)

    @classmethod
    def runs(cls, config: Mapping[str, Any]) -> bool:
        """Whether the configuration does not ask for fresh noise, which `consistency` adds."""
        return not config.get("stochastic_sampling")

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        return self._euler(schedule, path, compat, eta=0.0)

    def _euler(self, schedule: Schedule, path: Path, compat: bool, eta: float) -> StepTable:
        grid = straight_grid(schedule, path, final_level(schedule, path))
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        if schedule.prediction_type == "flow_prediction" and np.isinf(clip) and eta == 0:
            # Written with D, the same step would lose digits by cancellation in float32.
            update = np.zeros((len(grid), 1, 4))
            update[:, 0, 0] = 1.0
            update[:, 0, 2] = grid.sigma_to - grid.sigma
        else:
            update = first_order_update(schedule, grid, eta)
        return self._assemble(
            schedule,
            grid,
            update,
            clip=clip,
            init_noise_sigma=forgetful_start(schedule, grid, compat),
        )


@dataclass(frozen=True)
class EulerAncestral(
    Euler, name="euler_ancestral", schedulers=("EulerAncestralDiscreteScheduler",)
):
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

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        return self._euler(schedule, path, compat, self.eta)
