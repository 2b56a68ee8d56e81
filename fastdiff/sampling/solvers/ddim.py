"""DDIM: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from fastdiff.sampling.proof import TOLERANCE
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import (
    Float64Array,
    Grid,
    Solver,
    check_number,
    clip_limit,
    first_order_update,
    vp_grid,
)
from fastdiff.sampling.table import StepTable


@dataclass(frozen=True)
class DDIM(Solver, name="ddim", scheduler="DDIMScheduler"):
    """DDIM, eq. 12 with the noise of eq. 16: x' = alpha' D + sqrt(sigma'^2 - std^2) eps + std z.

    Parameters
    ----------
    eta : float
        0 for the deterministic sampler, 1 for the noise of DDPM.
    clip_sample : bool, optional
        Clip the denoised estimate; as the schedule says if None.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    use_clipped_model_output : bool
        Derive eps from the clipped estimate (as guided-diffusion and DiT do) instead of keeping
        the network's own.
    """

    eta: float = 0.0
    clip_sample: bool | None = None
    clip_sample_range: float | None = None
    use_clipped_model_output: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        check_number("eta", self.eta, 0.0, 1.0)

    def _build(self, schedule: Schedule, times: Float64Array, compat: bool) -> StepTable:
        final = (1.0, 0.0) if schedule.set_alpha_to_one else schedule.level(0)
        grid = vp_grid(schedule, times, final)
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        waived = {}
        if compat:
            strided = _fixed_stride(schedule, grid, final)
            gap = np.hypot(strided.alpha_to - grid.alpha_to, strided.sigma_to - grid.sigma_to)
            if np.any(gap[:-1] > TOLERANCE):
                waived["levels"] = "diffusers steps to t - T // n, not to the next time it visits"
            grid = strided
        update = first_order_update(
            schedule,
            grid,
            self.eta,
            noise_from_clipped=self.use_clipped_model_output or np.isinf(clip),
        )
        return self._assemble(schedule, grid, update, clip=clip, waived=waived)


def _fixed_stride(schedule: Schedule, grid: Grid, final: tuple[float, float]) -> Grid:
    """Land every step at t - T // n, and at `final` where that is negative."""
    to = grid.t - schedule.num_train_timesteps // len(grid.t)
    alpha, sigma = schedule.level(np.maximum(to, 0.0))
    return replace(
        grid,
        alpha_to=np.where(to >= 0, alpha, final[0]),
        sigma_to=np.where(to >= 0, sigma, final[1]),
    )
