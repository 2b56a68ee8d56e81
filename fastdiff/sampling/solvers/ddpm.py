"""DDPM: Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models", arXiv 2006.11239."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.path import Path
from fastdiff.sampling.schedule import VARIANCE_TYPES, Schedule
from fastdiff.sampling.solvers.base import Solver
from fastdiff.sampling.solvers.grid import Grid, broken_levels, clip_limit, training_grid
from fastdiff.sampling.table import StepTable

# diffusers does not let a variance fall below this before it takes the logarithm.
_SMALLEST_VARIANCE = 1e-20

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DDPM(Solver, name="ddpm", schedulers=("DDPMScheduler",)):
    """Ancestral sampling between any two times: eq. 6 and 7 and Algorithm 2.

    The step from t to s has beta = 1 - alpha_t^2 / alpha_s^2 and the posterior variance
    beta~ = sigma_s^2 / sigma_t^2 beta. The last step, onto the data, draws no noise.

    Parameters
    ----------
    variance_type : str, optional
        ``fixed_small``: beta~. ``fixed_large``: beta. Their ``_log`` forms give the same numbers.
        ``learned``: the network returns a log-variance v beside its prediction, and the deviation
        is exp(v / 2). ``learned_range``: v in [-1, 1] interpolates log beta~ and log beta
        (Improved DDPM, arXiv 2102.09672, eq. 15). As the schedule says if None.
    clip_sample : bool, optional
        Clip the denoised estimate; as the schedule says if None.
    clip_sample_range : float, optional
        Magnitude of the clip; as the schedule says if None.
    """

    variance_type: str | None = None
    clip_sample: bool | None = None
    clip_sample_range: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance_type is not None and self.variance_type not in VARIANCE_TYPES:
            raise UnknownName("variance_type", self.variance_type, VARIANCE_TYPES)

    def _build(self, schedule: Schedule, path: Path, compat: bool) -> StepTable:
        if schedule.process != "vp":
            raise InvalidArgument(
                f"ddpm reverses a variance preserving process, got {schedule.process!r}; use "
                "'ddim' with eta=1, which is the same step for any process"
            )
        grid = training_grid(schedule, path, (1.0, 0.0))
        beta = 1.0 - (grid.alpha / grid.alpha_to) ** 2
        variance_type = (self.variance_type or schedule.variance_type).removesuffix("_log")
        noisy = path.t > 0 if compat else grid.sigma_to > 0
        std, w = _noise_scale(variance_type, grid, beta, noisy)
        update = np.zeros((len(grid), 1, 4))
        x, D, _, z = np.moveaxis(update[:, 0], 1, 0)
        x += grid.alpha / grid.alpha_to * (grid.sigma_to / grid.sigma) ** 2
        D += grid.alpha_to * beta / grid.sigma**2
        z += std
        waived = {}
        if variance_type != "fixed_small":
            reason = f"{variance_type} is not the posterior variance"
            waived = broken_levels(grid, update, reason)
        clip = clip_limit(schedule, self.clip_sample, self.clip_sample_range)
        return self._assemble(schedule, grid, update, clip=clip, w=w, waived=waived)


def _noise_scale(
    variance_type: str, grid: Grid, beta: Float64Array, noisy: npt.NDArray[np.bool_]
) -> tuple[Float64Array, Float64Array]:
    """Return (s, w): the noise of a row is s exp(w v) z."""
    small = np.maximum((grid.sigma_to / grid.sigma) ** 2 * beta, _SMALLEST_VARIANCE)
    zero = np.zeros_like(beta)
    if variance_type == "fixed_small":
        std, w = np.sqrt(small), zero
    elif variance_type == "fixed_large":
        std, w = np.sqrt(beta), zero
    elif variance_type == "learned":
        std, w = np.ones_like(beta), zero + 0.5
    else:
        std, w = (small * beta) ** 0.25, 0.25 * np.log(beta / small)
    return np.where(noisy, std, 0.0), np.where(noisy, w, 0.0)
