"""Heun's method, with churn: Karras, Aittala, Aila and Laine (EDM), arXiv 2206.00364."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.checks import check_number
from fastdiff.sampling.order import TOLERANCE
from fastdiff.sampling.path import Path, PathRules
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.grid import (
    Grid,
    clip_limit,
    final_level,
    forgetful_start,
    straight_grid,
)
from fastdiff.sampling.solvers.rows import Columns, stack
from fastdiff.sampling.table import StepTable

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Heun(
    Solver,
    name="heun",
    schedulers=("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"),
):
    """Heun's method on dx/dsigma = (x - D) / sigma: Algorithm 1, with churn Algorithm 2.

    A step is two evaluations and two rows: Euler's method to the next noise level, then the
    trapezoidal rule with the slope found there. The last step, to sigma = 0, is Euler's method
    alone. With churn a step first raises the noise from sigma to sigma (1 + gamma). The row before
    adds that noise; for the first step it is part of the initial noise.

    Parameters
    ----------
    s_churn : float
        gamma = min(s_churn / steps, sqrt(2) - 1).
    s_tmin, s_tmax : float
        Only steps that start at a sigma between these add noise.
    s_noise : float
        Factor of the deviation of the added noise. With 1, x has the noise level that is assumed.
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    s_churn: float = 0.0
    s_tmin: float = 0.0
    s_tmax: float = math.inf
    s_noise: float = 1.0
    clip_sample: bool = False
    clip_sample_range: float | None = None
    rules: ClassVar[PathRules] = PathRules(fractional=True, floor=True)
    reads: ClassVar[tuple[str, ...]] = ("clip_sample",)

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("s_tmin", "s_tmax"):
            check_number(option, getattr(self, option), 0.0, math.inf)
        for option in ("s_churn", "s_noise"):
            check_number(option, getattr(self, option), 0.0, 1e6)

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        if self.s_churn and schedule.process == "flow":
            raise InvalidArgument(
                "s_churn adds noise at constant alpha, which a flow schedule does not have; leave "
                "s_churn at 0, or use solver='consistency' for fresh noise"
            )
        grid = straight_grid(schedule, path, final_level(schedule, path))
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        hat = grid.sigma * (1.0 + self._gammas(grid))
        added = self.s_noise * np.sqrt(hat**2 - grid.sigma**2)
        levels, update, order = self._rows(schedule, grid, clip, hat, added)
        start = math.hypot(schedule.data_scale * levels.alpha[0], grid.sigma[0])
        forgetful = forgetful_start(schedule, grid, compat)
        start = start if math.isnan(forgetful) else forgetful
        waived = {}
        missed = np.abs(np.hypot(grid.sigma, added) - hat) > TOLERANCE * np.maximum(1.0, hat)
        if np.any(missed[1:]):
            waived["variance"] = f"s_noise={self.s_noise} scales the added noise"
        return self._assemble(
            schedule,
            levels,
            update,
            clip=clip,
            order=order,
            moment_basis="slope",
            init_noise_sigma=math.hypot(start, added[0]),
            waived=waived,
        )

    def _gammas(self, grid: Grid) -> Float64Array:
        sigma, steps = grid.sigma, grid.skipped + len(grid)
        gamma = min(self.s_churn / steps, math.sqrt(2.0) - 1.0)
        return np.where((sigma >= self.s_tmin) & (sigma <= self.s_tmax), gamma, 0.0)

    def _rows(
        self,
        schedule: Schedule,
        grid: Grid,
        clip: float,
        hat: Float64Array,
        added: Float64Array,
    ) -> tuple[Grid, Float64Array, list[int]]:
        """Return noise levels, updates and orders of all rows. H1 is x plus half a step."""
        c, n = Columns(1), len(grid)
        ends, times = grid.sigma_to, np.append(grid.t, math.nan)
        rows, orders = [], []
        visits: list[tuple[float, float]] = []  # sigma and time
        for i in range(n):
            step, z = ends[i] - hat[i], added[i + 1] if i + 1 < n else 0.0
            orders.append(1)
            visits.append((hat[i], times[i] if hat[i] == grid.sigma[i] else math.nan))
            slope = c.slope(schedule, hat[i], clip)
            if ends[i] == 0:
                rows.append([c.x + step * slope])
                continue
            rows.append([c.x + step * slope, c.x + step / 2 * slope])
            visits.append((ends[i], times[i + 1]))
            slope = c.slope(schedule, ends[i], clip)
            rows.append([c.H[0] + step / 2 * slope + z * c.z])
            orders.append(1 if z else 2)  # with fresh noise the row ends at another noise level
        return level_rows(schedule, grid, *np.array(visits).T), stack(rows, 1), orders


def level_rows(schedule: Schedule, grid: Grid, sigma: Float64Array, t: Float64Array) -> Grid:
    """Return a `straight_grid` whose rows are at these sigmas and that ends where `grid` ends.

    A time that is NaN is replaced by the time of its sigma.
    """
    alpha = 1.0 - sigma if schedule.process == "flow" else np.ones_like(sigma)
    if schedule.process == "vp":
        c_in = 1.0 / np.hypot(1.0, sigma)
    else:
        c_in = schedule.input_scale(alpha, sigma)
    return Grid(
        t=np.where(np.isnan(t), schedule.time_at(sigma), t),
        alpha=alpha,
        sigma=sigma,
        alpha_to=np.append(alpha[1:], grid.alpha_to[-1]),
        sigma_to=np.append(sigma[1:], grid.sigma_to[-1]),
        c_in=c_in,
    )
