"""DEIS: Zhang and Chen, "Fast Sampling ... with Exponential Integrator", arXiv 2204.13902."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from fastdiff.sampling.checks import whole_number
from fastdiff.sampling.numerics import log_snr, phi
from fastdiff.sampling.path import Path, PathRules
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.dpmpp import FEW_STEPS
from fastdiff.sampling.solvers.grid import Grid, clip_limit, final_level, training_grid
from fastdiff.sampling.solvers.rows import Columns, Row, stack
from fastdiff.sampling.table import StepTable


@dataclass(frozen=True)
class DEIS(Solver, name="deis", schedulers=("DEISMultistepScheduler",)):
    """Adams-Bashforth for epsilon in log rho, rho = sigma / alpha (DEIS, rho-AB in log rho).

    x / alpha changes by the integral of epsilon over rho. There, epsilon is the polynomial in
    log rho through the last evaluations.

    Parameters
    ----------
    solver_order : int
        1 to 3. A step onto sigma = 0, where log rho is infinite, is first order.
    lower_order_final : bool
        Lower the order towards the end when there are fewer than 15 steps.
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    solver_order: int = 2
    lower_order_final: bool = True
    clip_sample: bool = False
    clip_sample_range: float | None = None
    rules: ClassVar[PathRules] = PathRules(final_point=True, trained_ends=True, whole_times="all")

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("solver_order", self.solver_order, 1, 3)

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        grid = training_grid(schedule, path, final_level(schedule, path))
        orders = self._orders(grid)
        return self._assemble(
            schedule,
            grid,
            stack([self._row(grid, i, orders[i]) for i in range(len(grid))], self.solver_order - 1),
            clip=clip_limit(schedule, self.clip_sample, self.clip_sample_range),
            order=orders,
            moment_basis="epsilon",
        )

    def _orders(self, grid: Grid) -> list[int]:
        n = len(grid)
        few = self.lower_order_final and grid.skipped + n < FEW_STEPS
        first = int(np.sum(grid.alpha == 0))
        orders = []
        for i in range(n):
            most = min(self.solver_order, n - i) if few else self.solver_order
            orders.append(1 if grid.sigma_to[i] == 0 else max(1, min(most, i + 1 - first)))
        return orders

    def _row(self, grid: Grid, i: int, order: int) -> Row:
        """Return row i. H1 and H2 are the last two epsilons."""
        c = Columns(self.solver_order - 1)
        alpha, sigma = float(grid.alpha[i]), float(grid.sigma[i])
        alpha_to, sigma_to = float(grid.alpha_to[i]), float(grid.sigma_to[i])
        noise = (c.x - alpha * c.D) / sigma
        if order == 1:
            x = sigma_to / sigma * c.x + (alpha_to - sigma_to * alpha / sigma) * c.D
            return [x, noise, *c.H[:-1]] if c.H else [x]
        u = -log_snr(grid.alpha, grid.sigma)
        step = float(-log_snr(alpha_to, sigma_to) - u[i])
        nodes = u[i::-1][:order] - u[i]
        weights = np.linalg.solve(
            np.vander(nodes, order, increasing=True).T, epsilon_moments(step, order)
        )
        past = np.array([noise, *c.H])[:order]
        x = alpha_to / alpha * c.x + sigma_to * np.tensordot(weights, past, 1)
        return [x, noise, *c.H[:-1]]


def epsilon_moments(step: float, count: int) -> npt.NDArray[np.float64]:
    """Return int_0^step e^(v - step) v^d dv for d < count: the moments of epsilon over rho'."""
    return np.array([math.factorial(d) * step ** (d + 1) * phi(d + 1, -step) for d in range(count)])
