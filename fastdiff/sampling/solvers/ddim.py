"""DDIM: Song, Meng and Ermon, "Denoising Diffusion Implicit Models", arXiv 2010.02502."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.checks import check_number
from fastdiff.sampling.path import Path
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.grid import (
    Grid,
    Level,
    clip_limit,
    first_order_update,
    training_grid,
)
from fastdiff.sampling.table import StepTable

_STRIDE = {"levels": "diffusers steps by T // n, not to the next time it visits"}


@dataclass(frozen=True)
class DDIM(Solver, name="ddim", schedulers=("DDIMScheduler",)):
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

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        final = data_level(schedule)
        grid = training_grid(schedule, path, final)
        if compat and schedule.process == "vp":
            alpha_to, sigma_to = _one_stride_below(schedule, path, final)
            grid = replace(grid, alpha_to=alpha_to, sigma_to=sigma_to)
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        update = first_order_update(
            schedule,
            grid,
            self.eta,
            noise_from_clipped=self.use_clipped_model_output or np.isinf(clip),
        )
        waived = _STRIDE if compat else {}
        return self._assemble(schedule, grid, update, clip=clip, waived=waived, compat=compat)


@dataclass(frozen=True)
class DDIMInverse(Solver, name="ddim_inverse", schedulers=("DDIMInverseScheduler",)):
    """DDIM from data to noise: eq. 12 with eta = 0 and the times reversed (sec. 4.3).

    The state starts as the data. A step from one noise level to a higher one evaluates the network
    at the time of the higher one, since the first step starts without noise, and the network was
    not trained for that.

    Parameters
    ----------
    clip_sample : bool, optional
        Clip the denoised estimate; as the schedule says if None.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    clip_sample: bool | None = None
    clip_sample_range: float | None = None

    def _path(
        self,
        schedule: Schedule,
        steps: int | None,
        timesteps: Sequence[float] | None,
        sigmas: Sequence[float] | None,
        compat: bool,
    ) -> Path:
        path = super()._path(schedule, steps, timesteps, sigmas, compat)
        return Path(path.t[::-1], path.alpha[::-1], path.sigma[::-1])

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        if path.skipped:
            raise InvalidArgument(
                f"ddim_inverse starts from the data, so it cannot leave out steps; got start="
                f"{path.skipped}: give the timesteps to stop at instead"
            )
        start = data_level(schedule)
        alpha = np.append(start[0], path.alpha[:-1])
        sigma = np.append(start[1], path.sigma[:-1])
        if compat and schedule.process == "vp":
            alpha, sigma = _one_stride_below(schedule, path, start)
        grid = Grid(
            t=path.t,
            alpha=alpha,
            sigma=sigma,
            alpha_to=path.alpha,
            sigma_to=path.sigma,
            c_in=schedule.input_scale(alpha, sigma),
        )
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        update = first_order_update(schedule, grid, noise_from_clipped=False)
        waived = _STRIDE if compat else {}
        return self._assemble(schedule, grid, update, clip=clip, waived=waived, compat=compat)


def data_level(schedule: Schedule) -> Level:
    """Return where DDIM ends: at the data, or at the lowest noise level of training."""
    if schedule.set_alpha_to_one or schedule.process != "vp":
        return 1.0, 0.0
    alpha, sigma = schedule.level(0)
    return alpha, sigma


def _one_stride_below(
    schedule: Schedule, path: Path, final: Level
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the noise levels at t - T // n, or `final` where that time is negative."""
    to = path.t - schedule.num_train_timesteps // (path.skipped + len(path))
    alpha, sigma = schedule.level(np.maximum(to, 0.0))
    return np.where(to >= 0, alpha, final[0]), np.where(to >= 0, sigma, final[1])
