"""DPM-Solver++ singlestep: Lu, Zhou, Bao, Chen, Li and Zhu, arXiv 2211.01095."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastdiff.errors import UnknownName
from fastdiff.sampling.checks import whole_number
from fastdiff.sampling.numerics import log_snr, phi
from fastdiff.sampling.path import Path, PathRules
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.dpmpp import SOLVER_TYPES
from fastdiff.sampling.solvers.grid import Grid, clip_limit, final_level, training_grid
from fastdiff.sampling.solvers.rows import Columns, Row, stack
from fastdiff.sampling.table import StepTable

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DPMppSingle(Solver, name="dpmpp_single", schedulers=("DPMSolverSinglestepScheduler",)):
    """DPM-Solver++(S), Algorithm 1: steps of up to three evaluations that start from one sample.

    A step of order o takes o of the times. Its first row is of first order. Each row after it goes
    from the same start to the next time, with one more estimate D. All of them contain the term
    (sigma' / sigma) x of the start, so a row can be computed from the row before and the estimates,
    and the start need not be kept.

    Parameters
    ----------
    solver_order : int
        Evaluations of a step, 1 to 3.
    solver_type : {"midpoint", "heun"}
        Weights of the estimates. ``midpoint``: those of the paper, which use the first and the last
        evaluation only; for order 2 the weight of D' is h (1 - e^-h) / 2. ``heun``: those of the
        integral of the polynomial through all evaluations.
    lower_order_final : bool
        Lower the order towards the end. That is also done without this option if the number of
        steps is not a multiple of the order, or if the path ends at sigma = 0.
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    solver_order: int = 2
    solver_type: str = "midpoint"
    lower_order_final: bool = False
    clip_sample: bool = False
    clip_sample_range: float | None = None
    rules: ClassVar[PathRules] = PathRules(final_point=True, trained_ends=True, whole_times="all")
    required: ClassVar[Mapping[str, Any]] = {"algorithm_type": "dpmsolver++"}
    aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "solver_type": dict.fromkeys(("logrho", "bh1", "bh2"), "midpoint")
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("solver_order", self.solver_order, 1, 3)
        if self.solver_type not in SOLVER_TYPES:
            raise UnknownName("solver_type", self.solver_type, SOLVER_TYPES)

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        grid = training_grid(schedule, path, final_level(schedule, path))
        orders = self._orders(grid)
        rows = [self._row(grid, i, orders) for i in range(len(grid))]
        return self._assemble(
            schedule,
            grid,
            stack(rows, self.solver_order - 1),
            clip=clip_limit(schedule, self.clip_sample, self.clip_sample_range),
            order=np.minimum(orders, 2) if self.solver_type == "midpoint" else orders,
            moment_rule="exact" if self.solver_type == "heun" else self._first_moment(),
            inner=np.array(orders) > 1,
        )

    def _first_moment(self) -> str:
        """Return the `moment_rule` of ``midpoint``, which for order 3 is not that of order 2."""
        return "midpoint" if self.solver_order == 2 else "leading"

    def _orders(self, grid: Grid) -> list[int]:
        """Return the order of every row, which is 1, 2, 3 within a step of three."""
        first = int(np.sum(grid.alpha == 0))  # no node for a polynomial in log-SNR
        n, o = grid.skipped + len(grid) - first, self.solver_order
        whole, left = divmod(n, o)
        ends_on_data = grid.sigma_to[-1] == 0
        if (self.lower_order_final or left or ends_on_data) and not left and o > 1:
            whole, left = whole - 1, o
        tail = {0: [], 1: [1], 2: [1, 2] if o == 3 else [1, 1], 3: [1, 2, 1]}[left]
        orders = [1] * first + [*range(1, o + 1)] * whole + tail
        if ends_on_data:
            orders[-1] = 1
        orders = orders[grid.skipped :]
        # If sampling starts in the middle of a step, the rest of it is a shorter step.
        return [min(order, i + 1) for i, order in enumerate(orders)]

    def _row(self, grid: Grid, i: int, orders: list[int]) -> Row:
        """Return row i. H1 and H2 are the last estimates, all of the same step."""
        c, start = Columns(self.solver_order - 1), i - orders[i] + 1
        known = [c.D, *c.H]
        x = grid.sigma_to[i] / grid.sigma[i] * c.x
        weights = self._weights(grid, start, i)
        x = x + grid.alpha_to[i] * np.tensordot(weights[::-1], np.array(known[: len(weights)]), 1)
        if i > start:  # the row before also went from the start of the step
            before = self._weights(grid, start, i - 1)
            ratio = grid.sigma_to[i] / grid.sigma[i] * grid.alpha_to[i - 1]
            x = x - ratio * np.tensordot(before[::-1], np.array(known[1 : len(weights)]), 1)
        return [x, *known[:-1]]

    def _weights(self, grid: Grid, start: int, i: int) -> Float64Array:
        """Return w of x' = sigma' / sigma x + alpha' sum_j w_j D_j, oldest first, from `start`."""
        lambdas = log_snr(grid.alpha[start : i + 1], grid.sigma[start : i + 1])
        h = float(log_snr(grid.alpha_to[i], grid.sigma_to[i]) - lambdas[0])
        count = i - start + 1
        weights = np.zeros(count)
        weights[0] = -np.expm1(-h)
        if count == 1:
            return weights
        nodes = lambdas - lambdas[0]
        if self.solver_type == "midpoint":
            slope = -np.expm1(-h) * h / 2 if count == 2 else h * h * phi(2, -h)
            weights[[0, -1]] += slope / nodes[-1] * np.array([-1.0, 1.0])
            return weights
        moments = np.array([h * phi(1, -h), h * h * phi(2, -h), 2 * h**3 * phi(3, -h)])[:count]
        return np.linalg.solve(np.vander(nodes, count, increasing=True).T, moments)
