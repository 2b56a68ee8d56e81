"""DPM-Solver++ multistep: Lu, Zhou, Bao, Chen, Li and Zhu, arXiv 2211.01095."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.numerics import ancestral_std, log_snr, phi
from fastdiff.sampling.path import Path, PathRules
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.grid import Grid, clip_limit, final_level, training_grid
from fastdiff.sampling.solvers.rows import Columns, stack
from fastdiff.sampling.table import StepTable

SOLVER_TYPES = ("midpoint", "heun")
ALGORITHM_TYPES = ("dpmsolver++", "sde-dpmsolver++")
ORDERS = (1, 2, 3)
FEW_STEPS = 15
"""Below this number of steps, lower_order_final applies, as in the authors' code."""


@dataclass(frozen=True)
class DPMpp2M(
    Solver,
    name="dpmpp_2m",
    schedulers=("DPMSolverMultistepScheduler", "EDMDPMSolverMultistepScheduler"),
):
    """DPM-Solver++(2M), Algorithm 2: second order from the last two denoised estimates.

    With lambda = log(alpha / sigma), h the step in it and D', D'' the derivatives of the polynomial
    through the last evaluations, x' = sigma' / sigma x + alpha' int_0^h e^(tau - h) D(tau) dtau.

    Parameters
    ----------
    solver_type : {"midpoint", "heun"}
        Weight of D' in the steps of second order. ``midpoint``: h (1 - e^-h) / 2. ``heun``: that
        of the exact integral.
    lower_order_final : bool
        Lower the order towards the end when there are fewer than 15 steps. A step onto sigma = 0,
        where h is infinite, is first order in any case.
    euler_at_final : bool
        Make the last step first order, however many steps there are.
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
    rules: ClassVar[PathRules] = PathRules(
        final_point=True, trained_ends=True, whole_times="all", floor=True
    )
    aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint")
    }
    solver_order: ClassVar[int] = 2
    stochastic: ClassVar[bool] = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.solver_type not in SOLVER_TYPES:
            raise UnknownName("solver_type", self.solver_type, SOLVER_TYPES)

    @classmethod
    def runs(cls, config: Mapping[str, Any]) -> bool:
        """Whether the configuration names this order and algorithm.

        Raises
        ------
        InvalidArgument
            If it names one that no solver here has.
        """
        algorithm = config.get("algorithm_type") or ALGORITHM_TYPES[0]
        order = config.get("solver_order") or 2
        if algorithm == "deis":  # what diffusers makes of a configuration of DEIS
            algorithm = ALGORITHM_TYPES[0]
        if algorithm not in ALGORITHM_TYPES or order not in ORDERS:
            raise InvalidArgument(
                f"algorithm_type={algorithm!r} of order {order} is not supported; supported: "
                f"orders 1 to 3 of {', '.join(ALGORITHM_TYPES)}"
            )
        return order == cls.solver_order and algorithm == ALGORITHM_TYPES[cls.stochastic]

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        grid = training_grid(schedule, path, final_level(schedule, path))
        orders = self._orders(grid)
        rows = [self._row(grid, i, int(orders[i]), compat) for i in range(len(grid))]
        # The weights of diffusers' third order differ from the paper's and meet no order condition.
        proved = np.where(orders == 3, 1, orders) if compat else orders
        return self._assemble(
            schedule,
            grid,
            stack(rows, self.solver_order - 1),
            clip=clip_limit(schedule, self.clip_sample, self.clip_sample_range),
            order=proved,
            moment_rule="midpoint" if self.solver_type == "midpoint" else "exact",
        )

    def _orders(self, grid: Grid) -> npt.NDArray[np.int64]:
        """Return the order of every row.

        It is limited by the evaluations so far, by `lower_order_final` and `euler_at_final`, and
        by infinite log-SNR, which cannot be a node of a polynomial.
        """
        n = len(grid)
        first = int(np.sum(grid.alpha == 0))  # with zero terminal SNR, that noise level is no node
        orders = np.clip(np.arange(n) + 1 - first, 1, self.solver_order)
        few = self.lower_order_final and grid.skipped + n < FEW_STEPS
        if few:
            orders[-2:-1] = np.minimum(orders[-2:-1], 2)
        if self.euler_at_final or few:
            orders[-1] = 1
        orders[grid.sigma_to == 0] = 1
        return orders

    def _row(self, grid: Grid, i: int, order: int, compat: bool) -> list[npt.NDArray[np.float64]]:
        """Return row i. H1 and H2 are the last two denoised estimates."""
        c = Columns(self.solver_order - 1)
        lambdas = log_snr(grid.alpha, grid.sigma)
        h = float(log_snr(grid.alpha_to[i], grid.sigma_to[i]) - lambdas[i])
        ch = 2.0 * h if self.stochastic else h
        integral = -np.expm1(-ch) * c.D
        if order > 1:
            slope, second = _derivatives(c, lambdas[i::-1][:order])
            if order == 2 and self.solver_type == "midpoint":
                integral = integral - np.expm1(-ch) / 2 * h * slope
            else:
                integral = integral + ch * phi(2, -ch) * h * slope
            weight = ch * phi(3, -ch)
            if compat:
                # The authors' released code halves this weight, and diffusers' SDE form of it has
                # the sign of a 1/2 wrong.
                weight = weight / 2 - 0.5 * self.stochastic
            integral = integral + weight * h * h * second
        x = grid.sigma_to[i] / grid.sigma[i] * c.x + grid.alpha_to[i] * integral
        if self.stochastic:
            std = ancestral_std(grid.alpha[i], grid.sigma[i], grid.alpha_to[i], grid.sigma_to[i])
            x = x + np.expm1(-h) * grid.sigma_to[i] / grid.sigma[i] * c.x + std * c.z
        return [x, c.D, *c.H[:-1]] if c.H else [x]


def _derivatives(
    c: Columns, nodes: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return D' and D'' at nodes[0] of the polynomial through D, H1, .. at `nodes`."""
    first = (c.D - c.H[0]) / (nodes[0] - nodes[1])
    if len(nodes) == 2:
        return first, np.zeros_like(first)
    before = (c.H[0] - c.H[1]) / (nodes[1] - nodes[2])
    second = 2.0 * (first - before) / (nodes[0] - nodes[2])
    return first + (nodes[0] - nodes[1]) / 2.0 * second, second


@dataclass(frozen=True)
class DPMpp2MSDE(DPMpp2M, name="dpmpp_2m_sde", schedulers=DPMpp2M.schedulers):
    """SDE-DPM-Solver++(2M): `DPMpp2M` for the reverse SDE, with fresh noise every step.

    The options are those of `DPMpp2M`.
    """

    stochastic: ClassVar[bool] = True


@dataclass(frozen=True)
class DPMpp3M(DPMpp2M, name="dpmpp_3m", schedulers=DPMpp2M.schedulers):
    """DPM-Solver++(3M): `DPMpp2M` with a parabola through the last three estimates.

    The options are those of `DPMpp2M`. The integral of the parabola is exact here. In the authors'
    released code and its copies the term of the second derivative is off by a factor of 2.
    """

    solver_order: ClassVar[int] = 3


@dataclass(frozen=True)
class DPMpp3MSDE(DPMpp2M, name="dpmpp_3m_sde", schedulers=DPMpp2M.schedulers):
    """SDE-DPM-Solver++(3M): `DPMpp3M` for the reverse SDE, with fresh noise every step.

    The options are those of `DPMpp2M`.
    """

    solver_order: ClassVar[int] = 3
    stochastic: ClassVar[bool] = True


@dataclass(frozen=True)
class DPMpp1(DPMpp2M, name="dpmpp_1", schedulers=DPMpp2M.schedulers):
    """DPM-Solver++(1): the step of DDIM on the times of the DPM-Solver family.

    The options are those of `DPMpp2M`; those of higher orders have no effect.
    """

    solver_order: ClassVar[int] = 1


@dataclass(frozen=True)
class DPMpp1SDE(DPMpp2M, name="dpmpp_1_sde", schedulers=DPMpp2M.schedulers):
    """SDE-DPM-Solver++(1): `DPMpp1` with fresh noise every step.

    The options are those of `DPMpp2M`; those of higher orders have no effect.
    """

    solver_order: ClassVar[int] = 1
    stochastic: ClassVar[bool] = True
