"""DPM-Solver++: Lu, Zhou, Bao, Chen, Li and Zhu, arXiv 2211.01095."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.numerics import ancestral_std, log_snr, phi
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import (
    Float64Array,
    Grid,
    Solver,
    clip_limit,
    final_level,
    vp_grid,
)
from fastdiff.sampling.table import StepTable

SOLVER_TYPES = ("midpoint", "heun")
_FEW_STEPS = 15  # below this, lower_order_final applies, as in the authors' code


@dataclass(frozen=True)
class DPMpp2M(Solver, name="dpmpp_2m", scheduler="DPMSolverMultistepScheduler"):
    """DPM-Solver++(2M), Algorithm 2: second order from the last two denoised estimates.

    With lambda = log(alpha / sigma), h the step in it and D' the slope of D through the last two
    evaluations, x' = sigma' / sigma x + alpha' (1 - e^-h) D + alpha' w h D'.

    Parameters
    ----------
    solver_type : {"midpoint", "heun"}
        ``midpoint``: w = (1 - e^-h) / 2. ``heun``: w is that of the exact integral.
    lower_order_final : bool
        Make the last step first order when there are fewer than 15. A step onto sigma = 0, where
        h is infinite, is first order in any case.
    euler_at_final : bool
        Make the last step first order however many there are.
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    solver_type: str = "midpoint"
    lower_order_final: bool = True
    euler_at_final: bool = False
    clip_sample: bool = False
    clip_sample_range: float | None = None
    final_point: ClassVar[bool] = True
    stochastic: ClassVar[bool] = False
    algorithm_type: ClassVar[str] = "dpmsolver++"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver_type not in SOLVER_TYPES:
            raise UnknownName("solver_type", self.solver_type, SOLVER_TYPES)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Solver | None:
        """Return this solver if the configuration names its algorithm.

        Raises
        ------
        InvalidArgument
            If the order or the algorithm is one that is not offered.
        """
        if config.get("_class_name") != cls.scheduler:
            return None
        algorithm = config.get("algorithm_type", "dpmsolver++")
        offered = {solver.algorithm_type for solver in (DPMpp2M, DPMpp2MSDE)}
        if algorithm not in offered or config.get("solver_order", 2) != 2:
            raise InvalidArgument(
                f"algorithm_type={algorithm!r} of order {config.get('solver_order', 2)} is not "
                f"supported; supported: order 2 of {', '.join(sorted(offered))}"
            )
        if algorithm != cls.algorithm_type:
            return None
        own = {field.name for field in fields(cls)} & config.keys()
        return cls(**{key: config[key] for key in own if not key.startswith("clip")})

    def _build(self, schedule: Schedule, times: Float64Array, compat: bool) -> StepTable:
        grid = vp_grid(schedule, times, final_level(schedule), floor=compat)
        orders = self._orders(grid)
        update = np.zeros((len(times), 2, 5))
        update[:, 1, 2] = 1.0  # H1 = D
        for i, order in enumerate(orders):
            update[i, 0] = self._row(grid, i, int(order))
        if self.stochastic:
            update[:, 0, 4] = ancestral_std(grid.alpha, grid.sigma, grid.alpha_to, grid.sigma_to)
        return self._assemble(
            schedule,
            grid,
            update,
            clip=clip_limit(schedule, self.clip_sample, self.clip_sample_range),
            order=orders,
            moment_rule="midpoint" if self.solver_type == "midpoint" else "exact",
        )

    def _orders(self, grid: Grid) -> np.ndarray[Any, np.dtype[np.int64]]:
        """1 for the first row, for a final row that asks for it, and beside an infinite lambda."""
        n = len(grid.t)
        orders = np.full(n, 2)
        orders[0] = 1
        if self.euler_at_final or (self.lower_order_final and n < _FEW_STEPS):
            orders[-1] = 1
        orders[grid.sigma_to == 0] = 1
        orders[1:][grid.alpha[:-1] == 0] = 1
        return orders

    def _row(self, grid: Grid, i: int, order: int) -> Float64Array:
        """Coefficients of x' over (x, H1, D, m, z), without the noise."""
        alpha_to, sigma_to = grid.alpha_to[i], grid.sigma_to[i]
        lambdas = log_snr(grid.alpha, grid.sigma)
        h = float(log_snr(alpha_to, sigma_to) - lambdas[i])
        c = 2.0 if self.stochastic else 1.0  # e^-ch is the decay of the data's weight
        data = -math.expm1(-c * h)
        row = np.zeros(5)
        row[0] = sigma_to / grid.sigma[i] * (math.exp(-h) if self.stochastic else 1.0)
        row[2] = alpha_to * data
        if order == 2:
            slope = data / 2 if self.solver_type == "midpoint" else c * h * phi(2, -c * h)
            share = alpha_to * slope * h / float(lambdas[i] - lambdas[i - 1])
            row[2] += share
            row[1] -= share
        return row


@dataclass(frozen=True)
class DPMpp2MSDE(DPMpp2M, name="dpmpp_2m_sde", scheduler="DPMSolverMultistepScheduler"):
    """SDE-DPM-Solver++(2M), sec. 5: `DPMpp2M` for the reverse SDE, with fresh noise every step.

    The options are those of `DPMpp2M`.
    """

    stochastic: ClassVar[bool] = True
    algorithm_type: ClassVar[str] = "sde-dpmsolver++"
