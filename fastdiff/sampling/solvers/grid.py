"""The noise levels of a table's rows, and the first-order step between two of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.numerics import ancestral_std
from fastdiff.sampling.order import TOLERANCE
from fastdiff.sampling.passes import Thresholding
from fastdiff.sampling.path import Path
from fastdiff.sampling.prediction import conversion_coefficients
from fastdiff.sampling.schedule import Schedule

Float64Array = npt.NDArray[np.float64]
Level = tuple[float, float]


@dataclass(frozen=True)
class Grid:
    """The noise levels of a table's rows. Every array is (n,) float64.

    Parameters
    ----------
    t : array
        What the network gets as time.
    alpha, sigma, alpha_to, sigma_to : array
        Noise levels before and after each row.
    c_in : array
        Scale of the network's input.
    skipped : int
        How many steps of the whole path were left out at its beginning. Methods that choose orders
        or strides by the number of steps count them too.
    """

    t: Float64Array
    alpha: Float64Array
    sigma: Float64Array
    alpha_to: Float64Array
    sigma_to: Float64Array
    c_in: Float64Array
    skipped: int = 0

    def __len__(self) -> int:
        """Return the number of rows, n."""
        return len(self.t)


def training_grid(schedule: Schedule, path: Path, final: Level) -> Grid:
    """Return the path in the coordinates of training, ending at `final`."""
    return Grid(
        t=path.t,
        alpha=path.alpha,
        sigma=path.sigma,
        alpha_to=np.append(path.alpha[1:], final[0]),
        sigma_to=np.append(path.sigma[1:], final[1]),
        c_in=schedule.input_scale(path.alpha, path.sigma),
        skipped=path.skipped,
    )


def straight_grid(schedule: Schedule, path: Path, final: Level) -> Grid:
    """Return the path in coordinates where the probability flow is dx/dsigma = (x - D) / sigma.

    For a variance preserving process these are x / alpha, with noise level (1, sigma / alpha). For
    the other processes they are those of training.

    Raises
    ------
    InvalidArgument
        If a level has alpha = 0, where the ratio is infinite.
    """
    grid = training_grid(schedule, path, final)
    if schedule.process != "vp":
        return grid
    if np.any(grid.alpha == 0):
        raise InvalidArgument(
            "sigma / alpha is infinite at zero terminal SNR, so a solver in these coordinates "
            "cannot start there; use 'ddim' (the same step as 'euler') or 'dpmpp_2m', or "
            "compat='diffusers', which starts just above"
        )
    ones = np.ones(len(grid))
    return replace(
        grid,
        alpha=ones,
        sigma=grid.sigma / grid.alpha,
        alpha_to=ones,
        sigma_to=grid.sigma_to / grid.alpha_to,
        c_in=grid.alpha,
    )


def final_level(schedule: Schedule, path: Path) -> Level:
    """Return where the Euler and DPM-Solver families end: at sigma = 0, or at the lowest level."""
    if schedule.final_sigmas_type == "zero":
        return 1.0, 0.0
    if schedule.process == "vp":
        alpha, sigma = schedule.level(0)
        return alpha, sigma
    return float(path.alpha[-1]), float(path.sigma[-1])


def first_order_update(
    schedule: Schedule, grid: Grid, eta: float = 0.0, *, noise_from_clipped: bool = True
) -> Float64Array:
    """Return x' = alpha_to D + sqrt(sigma_to^2 - std^2) epsilon + std z, (n, 1, 4).

    This is DDIM (arXiv 2010.02502, eq. 12 and 16) in any coordinates: with eta = 0 also Euler's
    method in sigma / alpha, with eta = 1 also the ancestral one.

    Parameters
    ----------
    schedule : Schedule
        The prediction type is used.
    grid : Grid
        The noise levels.
    eta : float
        Share of the ancestral noise.
    noise_from_clipped : bool
        Compute epsilon = (x - alpha D) / sigma from the clipped D, instead of taking the network's
        own.
    """
    std = ancestral_std(grid.alpha, grid.sigma, grid.alpha_to, grid.sigma_to, eta)
    direction = np.sqrt(np.maximum(0.0, grid.sigma_to**2 - std**2))
    update = np.zeros((len(grid), 1, 4))
    x, D, m, z = np.moveaxis(update[:, 0], 1, 0)
    D += grid.alpha_to
    z += std
    if noise_from_clipped:
        x += direction / grid.sigma
        D -= direction * grid.alpha / grid.sigma
    else:
        a, b = conversion_coefficients(
            schedule.prediction_type, "epsilon", grid.alpha, grid.sigma, schedule.data_scale
        )
        x += direction * a
        m += direction * b
    return update


def broken_levels(grid: Grid, update: Float64Array, reason: str) -> dict[str, str]:
    """Return the waivers for rows without history that do not land on their noise level."""
    x, D, _, z = np.moveaxis(update[:, 0], 1, 0)
    missed = {
        "mean": x * grid.alpha + D - grid.alpha_to,
        "variance": np.hypot(x * grid.sigma, z) - grid.sigma_to,
    }
    allowed = TOLERANCE * np.maximum(grid.alpha_to, grid.sigma_to)
    return {check: reason for check, gap in missed.items() if np.any(np.abs(gap) > allowed)}


def forgetful_start(schedule: Schedule, grid: Grid, compat: bool) -> float:
    """Return the deviation of the initial noise, or NaN for that of noised data.

    With `compat`, it is what diffusers uses for the solvers of k-diffusion. It leaves out the
    data's share of the deviation unless the spacing is leading, and takes that to be 1 for edm.
    """
    if compat and schedule.process == "edm":
        return float(np.hypot(1.0, grid.sigma[0]))
    if compat and schedule.process == "vp" and schedule.timestep_spacing != "leading":
        return float(grid.sigma[0])
    return np.nan


def clip_limit(
    schedule: Schedule, clip_sample: bool | None, clip_sample_range: float | None
) -> float:
    """Return the magnitude at which D is clipped, inf for none. None means as the schedule says.

    Dynamic thresholding replaces the clip. Its limit depends on the image, so the greatest limit
    that it can have is returned.
    """
    if schedule.thresholding:
        return schedule.sample_max_value
    if not (schedule.clip_sample if clip_sample is None else clip_sample):
        return np.inf
    return schedule.clip_sample_range if clip_sample_range is None else float(clip_sample_range)


def thresholding(schedule: Schedule) -> Thresholding | None:
    """Return the dynamic thresholding that a schedule asks for."""
    if not schedule.thresholding:
        return None
    return Thresholding(schedule.dynamic_thresholding_ratio, schedule.sample_max_value)
