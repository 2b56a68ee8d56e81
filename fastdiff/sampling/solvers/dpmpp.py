"""DPM-Solver++: Lu, Zhou, Bao, Chen, Li and Zhu, arXiv 2211.01095."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

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
ALGORITHM_TYPES = ("dpmsolver++", "sde-dpmsolver++")
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
    algorithm_type: ClassVar[str] = ALGORITHM_TYPES[0]

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
        algorithm = config.get("algorithm_type") or ALGORITHM_TYPES[0]
        order = config.get("solver_order") or 2
        if algorithm not in ALGORITHM_TYPES or order != 2:
            raise InvalidArgument(
                f"algorithm_type={algorithm!r} of order {order} is not supported; supported: "
                f"order 2 of {', '.join(ALGORITHM_TYPES)}"
            )
        return super().from_config(config) if algorithm == cls.algorithm_type else None

    def _build(self, schedule: Schedule, times: Float64Array, compat: bool) -> StepTable:
        grid = vp_grid(schedule, times, final_level(schedule), floor=compat)
        orders = self._orders(grid)
        return self._assemble(
            schedule,
            grid,
            self._update(grid, orders),
            clip=clip_limit(schedule, self.clip_sample, self.clip_sample_range),
            order=orders,
            moment_rule="midpoint" if self.solver_type == "midpoint" else "exact",
        )

    def _orders(self, grid: Grid) -> npt.NDArray[np.int64]:
        """Return 2, but 1 without history, at an end that asks for it, and at infinite log-SNR."""
        n = len(grid.t)
        orders = np.full(n, 2)
        orders[0] = 1
        if self.euler_at_final or (self.lower_order_final and n < _FEW_STEPS):
            orders[-1] = 1
        orders[grid.sigma_to == 0] = 1
        orders[1:][grid.alpha[:-1] == 0] = 1
        return orders

    def _update(self, grid: Grid, orders: npt.NDArray[np.int64]) -> Float64Array:
        """Return the rows; H1 is always the last denoised estimate."""
        lambdas = log_snr(grid.alpha, grid.sigma)
        h = log_snr(grid.alpha_to, grid.sigma_to) - lambdas
        ch = 2.0 * h if self.stochastic else h
        data = -np.expm1(-ch)
        update = np.zeros((len(h), 2, 5))
        update[:, 1, 2] = 1.0
        x, last, D, _, z = np.moveaxis(update[:, 0], 1, 0)
        x += grid.sigma_to / grid.sigma
        D += grid.alpha_to * data
        if self.stochastic:
            x *= np.exp(-h)
            z += ancestral_std(grid.alpha, grid.sigma, grid.alpha_to, grid.sigma_to)
        i = np.flatnonzero(orders == 2)
        w = data[i] / 2
        if self.solver_type == "heun":
            w = np.array([step * phi(2, -step) for step in ch[i]])
        slope = grid.alpha_to[i] * w * h[i] / (lambdas[i] - lambdas[i - 1])
        D[i] += slope
        last[i] -= slope
        return update


@dataclass(frozen=True)
class DPMpp2MSDE(DPMpp2M, name="dpmpp_2m_sde", scheduler="DPMSolverMultistepScheduler"):
    """SDE-DPM-Solver++(2M): `DPMpp2M` for the reverse SDE, with fresh noise every step.

    The options are those of `DPMpp2M`.
    """

    stochastic: ClassVar[bool] = True
    algorithm_type: ClassVar[str] = ALGORITHM_TYPES[1]
