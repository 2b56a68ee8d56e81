"""The variance preserving SDE: Song et al., "Score-Based ... through SDEs", arXiv 2011.13456."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.path import Path
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.ddim import data_level
from fastdiff.sampling.solvers.grid import broken_levels, clip_limit, training_grid
from fastdiff.sampling.table import StepTable


@dataclass(frozen=True)
class ReverseSDE(Solver, name="reverse_sde"):
    """Euler-Maruyama for the reverse of dx = -beta x / 2 dt + sqrt(beta) dw, eq. 6 and 11.

    With B the integral of beta over a step, and the score s = -(x - alpha D) / sigma^2,
    x' = x + B (x / 2 + s) + sqrt(B) z. The last step, to the data, draws no noise. Unlike the
    ancestral samplers it is not exact for constant data, and needs many steps.

    Parameters
    ----------
    clip_sample : bool
        Clip the denoised estimate.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    clip_sample: bool = False
    clip_sample_range: float | None = None
    share: ClassVar[float] = 1.0
    """The weight of the score: 1 for the SDE, and 1/2 for the ODE with the same marginals."""

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        grid = training_grid(schedule, path, data_level(schedule))
        if schedule.process != "vp" or np.any(grid.alpha == 0):
            raise InvalidArgument(
                f"{self.name} integrates beta, which needs process 'vp' and alpha > 0 everywhere; "
                "got "
                + ("zero terminal SNR" if schedule.process == "vp" else repr(schedule.process))
            )
        B = 2.0 * np.log(grid.alpha_to / grid.alpha)
        update = np.zeros((len(grid), 1, 4))
        x, D, _, z = np.moveaxis(update[:, 0], 1, 0)
        x += 1.0 + B / 2.0 - self.share * B / grid.sigma**2
        D += self.share * B * grid.alpha / grid.sigma**2
        if self.share == 1.0:
            z += np.where(grid.sigma_to > 0, np.sqrt(B), 0.0)
        reason = "Euler's method in time is not exact for constant data"
        return self._assemble(
            schedule,
            grid,
            update,
            clip=clip_limit(schedule, self.clip_sample, self.clip_sample_range),
            waived=broken_levels(grid, update, reason),
        )


@dataclass(frozen=True)
class ProbabilityFlow(ReverseSDE, name="probability_flow"):
    """Euler's method for the probability flow ODE of the same SDE, eq. 13: dx = -beta/2 (x + s) dt.

    `ddim` solves the same equation in other coordinates, where it is exact for constant data.
    The options are those of `ReverseSDE`.
    """

    share: ClassVar[float] = 0.5
