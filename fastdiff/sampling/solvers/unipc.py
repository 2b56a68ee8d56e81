"""UniPC: Zhao, Bai, Rao, Zhou and Lu, arXiv 2302.04867, for networks that predict the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.checks import whole_number
from fastdiff.sampling.numerics import log_snr, phi
from fastdiff.sampling.path import Path, PathRules
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.grid import Grid, clip_limit, final_level, training_grid
from fastdiff.sampling.solvers.rows import Columns, Row, stack
from fastdiff.sampling.table import StepTable

SOLVER_TYPES = ("bh1", "bh2")

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class UniPC(Solver, name="unipc", schedulers=("UniPCMultistepScheduler",)):
    """UniPC with its corrector, Algorithms 1 and 2, one evaluation a step.

    The predictor goes from noise level i to i + 1 with the last p estimates. When D is known at the
    new level, the corrector repeats the step with it. Both contain the term (sigma' / sigma) x, so
    the correction is a sum of estimates alone. It is added in the next row, and the sample before
    the step need not be kept.

    Parameters
    ----------
    solver_order : int
        p, 1 to 3. With the corrector, the order of convergence is p + 1.
    solver_type : {"bh1", "bh2"}
        B(h) = h or e^h - 1 (sec. 3.2). They differ where the paper sets a coefficient to 1/2.
    lower_order_final : bool
        Lower the order towards the end.
    disable_corrector : sequence of int
        Numbers of the steps that are not corrected, counted from 0.
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    solver_order: int = 2
    solver_type: str = "bh2"
    lower_order_final: bool = True
    disable_corrector: Sequence[int] = ()
    clip_sample: bool = False
    clip_sample_range: float | None = None
    rules: ClassVar[PathRules] = PathRules(
        final_point=True,
        trained_ends=True,
        whole_times="all",
        floor=True,
        flow_from_noise=True,
    )
    required: ClassVar[Mapping[str, Any]] = {"predict_x0": True, "solver_p": None}
    aliases: ClassVar[Mapping[str, Mapping[str, str]]] = {
        "solver_type": dict.fromkeys(("midpoint", "heun", "logrho"), "bh2")
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        whole_number("solver_order", self.solver_order, 1, 3)
        if self.solver_type not in SOLVER_TYPES:
            raise UnknownName("solver_type", self.solver_type, SOLVER_TYPES)
        try:
            steps = tuple(whole_number("disable_corrector", i, 0) for i in self.disable_corrector)
        except TypeError:
            raise InvalidArgument(
                f"disable_corrector must be a sequence of steps, got {self.disable_corrector!r}"
            ) from None
        object.__setattr__(self, "disable_corrector", steps)

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        grid = training_grid(schedule, path, final_level(schedule, path))
        orders = self._orders(grid)
        return self._assemble(
            schedule,
            grid,
            stack([self._row(grid, i, orders) for i in range(len(grid))], self.solver_order),
            clip=clip_limit(schedule, self.clip_sample, self.clip_sample_range),
            order=self._proved(grid, orders),
            moment_rule="leading",
        )

    def _orders(self, grid: Grid) -> list[int]:
        """Return the predictor's order of every row. Nodes are levels of finite log-SNR only."""
        n, first = len(grid), int(np.sum(grid.alpha == 0))
        orders = []
        for i in range(n):
            most = min(self.solver_order, n - i) if self.lower_order_final else self.solver_order
            orders.append(1 if grid.sigma_to[i] == 0 else max(1, min(most, i + 1 - first)))
        return orders

    def _corrected(self, grid: Grid, step: int) -> bool:
        disabled = step + grid.skipped in self.disable_corrector
        return step >= 0 and not disabled and bool(grid.alpha[step] > 0)

    def _proved(self, grid: Grid, orders: list[int]) -> list[int]:
        """Return the order of each row by itself, given an exact x, for the check of moments.

        It is not the order of the method. A correction removes the error of the step before. If x
        is exact there is no such error, and the correction adds one of the same size.
        """
        return [
            min(order, orders[i - 1]) if self._corrected(grid, i - 1) else order
            for i, order in enumerate(orders)
        ]

    def _row(self, grid: Grid, i: int, orders: list[int]) -> Row:
        """Return row i. H1, H2 and so on are the last denoised estimates."""
        c = Columns(self.solver_order)
        lambdas = np.append(
            log_snr(grid.alpha, grid.sigma), log_snr(grid.alpha_to[-1], grid.sigma_to[-1])
        )
        x = c.x
        if self._corrected(grid, i - 1):
            known = np.array([c.D, *c.H])[: orders[i - 1] + 1]
            nodes = lambdas[i - 1 :: -1][: orders[i - 1]]
            after = self._weights(nodes, lambdas[i], corrector=True)
            before = self._weights(nodes, lambdas[i], corrector=False)
            x = x + grid.alpha[i] * np.tensordot(after - before, known, 1)
        nodes = lambdas[i::-1][: orders[i]]
        weights = self._weights(nodes, lambdas[i + 1], corrector=False)[1:]
        data = np.tensordot(weights, np.array([c.D, *c.H])[: orders[i]], 1)
        return [grid.sigma_to[i] / grid.sigma[i] * x + grid.alpha_to[i] * data, c.D, *c.H[:-1]]

    def _weights(self, nodes: Float64Array, end: float, *, corrector: bool) -> Float64Array:
        """Return the weights of D at (end, *nodes) for the step from nodes[0] to end, eq. 9-12.

        With them, x' = sigma' / sigma x + alpha' sum_j w_j D_j. The predictor does not know D at
        the end, so that weight is 0 for it.
        """
        h, order = float(end - nodes[0]), len(nodes)
        weights = np.zeros(order + 1)
        weights[1] = -math.expm1(-h)
        count = order if corrector else order - 1
        if count == 0 or h == 0:
            return weights
        B = -h if self.solver_type == "bh1" else math.expm1(-h)
        r = np.append((nodes[1:] - nodes[0]) / h, 1.0)[:count]
        if count == 1:
            rho = np.array([0.5])  # the paper's choice, for any B
        else:
            moments = [math.factorial(d) * -h * phi(d + 1, -h) / B for d in range(1, count + 1)]
            rho = np.linalg.solve(np.vander(r, count, increasing=True).T, moments)
        # The weight of each difference (D_j - D_0) / r_j is -B rho_j.
        for j, weight in enumerate(-B * rho / r):
            at = 0 if corrector and j == count - 1 else j + 2
            weights[at] += weight
            weights[1] -= weight
        return weights
