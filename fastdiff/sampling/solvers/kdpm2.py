"""The two-evaluation samplers of k-diffusion: DPM-Solver-2 and its stochastic forms."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.numerics import ancestral_std
from fastdiff.sampling.path import Path, PathRules
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.grid import (
    clip_limit,
    final_level,
    forgetful_start,
    straight_grid,
)
from fastdiff.sampling.solvers.heun import level_rows
from fastdiff.sampling.solvers.rows import Columns, Row, stack
from fastdiff.sampling.table import StepTable


@dataclass(frozen=True)
class KDPM2(Solver, name="kdpm2", schedulers=("KDPM2DiscreteScheduler",)):
    """DPM-Solver-2 (arXiv 2206.00927) in sigma / alpha, as ``sample_dpm_2`` of k-diffusion.

    A step is two evaluations and two rows: Euler's method to the middle of the step in log sigma,
    then a whole step with the slope found there. A step to sigma = 0 is Euler's method.

    Parameters
    ----------
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    clip_sample: bool = False
    clip_sample_range: float | None = None
    rules: ClassVar[PathRules] = PathRules(fractional=True, whole_times="karras", floor=True)
    stochastic: ClassVar[bool] = False

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        if self.stochastic and schedule.process == "flow":
            raise InvalidArgument(
                f"{self.name} adds noise at constant alpha, which a flow schedule does not have; "
                "use 'euler_ancestral' or 'consistency' for fresh noise"
            )
        grid = straight_grid(schedule, path, final_level(schedule, path))
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        visits: list[tuple[float, float]] = []  # sigma and time
        rows: list[Row] = []
        for i in range(len(grid)):
            found = self._step(schedule, float(grid.sigma[i]), float(grid.sigma_to[i]), clip)
            visits += zip((sigma for sigma, _ in found), (grid.t[i], math.nan), strict=False)
            rows += [row for _, row in found]
        return self._assemble(
            schedule,
            level_rows(schedule, grid, *np.array(visits).T),
            stack(rows, 1),
            clip=clip,
            init_noise_sigma=forgetful_start(schedule, grid, compat),
        )

    def _step(
        self, schedule: Schedule, start: float, end: float, clip: float
    ) -> list[tuple[float, Row]]:
        """Return the rows of one step, each with the sigma of its evaluation. H1 is x."""
        c = Columns(1)
        slope = c.slope(schedule, start, clip)
        if end == 0:
            return [(start, [c.x - start * slope])]
        up = float(ancestral_std(1.0, start, 1.0, end)) if self.stochastic else 0.0
        down = math.sqrt(end * end - up * up)
        middle = math.sqrt(start * down)
        there = c.slope(schedule, middle, clip)
        return [
            (start, [c.x + (middle - start) * slope, c.x]),
            (middle, [c.H[0] + (down - start) * there + up * c.z]),
        ]


@dataclass(frozen=True)
class KDPM2Ancestral(
    KDPM2, name="kdpm2_ancestral", schedulers=("KDPM2AncestralDiscreteScheduler",)
):
    """`KDPM2` to a lower level, then fresh noise up to the next (k-diffusion, dpm_2_ancestral).

    The options are those of `KDPM2`.
    """

    stochastic: ClassVar[bool] = True


@dataclass(frozen=True)
class DPMppSDE(KDPM2, name="dpmpp_sde", schedulers=("DPMSolverSDEScheduler",)):
    """SDE-DPM-Solver++ with two evaluations a step, ``sample_dpmpp_sde`` of k-diffusion, r = 1/2.

    The noise of the first half of a step and that of the whole step come from one Brownian path
    in sigma, with correlation sqrt((sigma - middle) / (sigma - sigma')). H1 keeps the start, and
    the part of the second noise that the first one determines. Each row can then draw noise of its
    own.

    The options are those of `KDPM2`.
    """

    rules: ClassVar[PathRules] = PathRules(fractional=True)
    stochastic: ClassVar[bool] = True

    def _step(
        self, schedule: Schedule, start: float, end: float, clip: float
    ) -> list[tuple[float, Row]]:
        c = Columns(1)
        if end == 0:
            return [(start, [c.D])]
        if end == start:
            return [(start, [c.x])]
        middle = math.sqrt(start * end)
        shared = math.sqrt((start - middle) / (start - end))
        half, whole = (float(ancestral_std(1.0, start, 1.0, to)) for to in (middle, end))
        keep_half = math.sqrt(middle**2 - half**2) / start
        keep = math.sqrt(end**2 - whole**2) / start
        fresh = whole * math.sqrt(1.0 - shared**2)
        return [
            (
                start,
                [
                    keep_half * c.x + (1.0 - keep_half) * c.D + half * c.z,
                    keep * c.x + whole * shared * c.z,
                ],
            ),
            (middle, [c.H[0] + (1.0 - keep) * c.D + fresh * c.z]),
        ]
