"""The noise levels at which a sampler evaluates the network, in the coordinates of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.checks import whole_number
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.spacing import SIGMA_SPACINGS, karras_sigmas
from fastdiff.sampling.timesteps import check_timesteps, spaced_timesteps

EDM_ENDS = (0.002, 80.0)
"""sigma_min and sigma_max of Karras et al. (arXiv 2206.00364, Table 1)."""

_OFF_NOISE = 1e-6
"""How far below pure noise diffusers starts UniPC on a flow, as the log-SNR there is infinite."""

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Path:
    """Where the network is evaluated, from noise to data; every array is (n,) float64.

    Parameters
    ----------
    t : array
        What the network gets as time.
    alpha, sigma : array
        The levels of the process.
    left_out : array
        The times of the whole path that were left out at its beginning (`after`).
    """

    t: Float64Array
    alpha: Float64Array
    sigma: Float64Array
    left_out: Float64Array = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        """Return the number of steps, n."""
        return len(self.t)

    @property
    def skipped(self) -> int:
        """How many steps of the whole path were left out at its beginning."""
        return len(self.left_out)

    def after(self, start: int) -> Path:
        """Return the path without its first `start` steps.

        Raises
        ------
        InvalidArgument
            If that leaves none.
        """
        start = whole_number("start", start, 0, len(self) - 1)
        left_out = np.append(self.left_out, self.t[:start])
        return Path(self.t[start:], self.alpha[start:], self.sigma[start:], left_out)


@dataclass(frozen=True)
class PathRules:
    """The conventions by which a solver family chooses its times.

    Parameters
    ----------
    fractional : bool
        Keep the fractions of linspace spacing (k-diffusion).
    final_point : bool
        Space one point more than there are steps, and end at the last one (DPM-Solver).
    trained_ends : bool
        A sigma spacing runs between the first and the last noise level of training, and not between
        those of the time spacing.
    whole_times : {"no", "karras", "all"}
        Which sigma spacings have their times rounded to those of training.
    floor : bool
        Whether diffusers replaces alpha = 0 by 2^-12 for this family.
    flow_from_noise : bool
        With `final_point`, a flow starts at pure noise and not one point below it.
    """

    fractional: bool = False
    final_point: bool = False
    trained_ends: bool = False
    whole_times: str = "no"
    floor: bool = False
    flow_from_noise: bool = False


def visit(
    schedule: Schedule,
    rules: PathRules,
    steps: int | None,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    *,
    compat: bool = False,
) -> Path:
    """Return the path of a number of steps, or through given times or sigmas.

    Raises
    ------
    InvalidArgument
        If none or two of the three are given, they contradict, or are out of range.
    """
    if steps is not None:
        steps = whole_number("steps", steps, 1, schedule.num_train_timesteps)
    if timesteps is not None and sigmas is not None:
        raise InvalidArgument("give timesteps or sigmas, not both")
    if timesteps is not None:
        apart = 1e-3 if schedule.process in ("vp", "flow") else 0.0
        times = check_timesteps(timesteps, schedule.time_range, steps, apart=apart)
        return _at_times(schedule, times, floor=compat and rules.floor)
    if sigmas is not None:
        most = 1.0 if schedule.process == "flow" else np.inf
        levels = check_timesteps(sigmas, (0.0, most), steps, "sigmas", apart=0.0)
        if levels[-1] == 0:
            raise InvalidArgument(
                "sigmas: the last one is 0, where the data are and nothing is evaluated; leave it "
                "out: a sampler goes on to its end by itself"
            )
        if schedule.process == "flow":
            levels = _shift(schedule, levels)
        return _at_sigmas(schedule, levels, rules)
    if steps is None:
        raise InvalidArgument("give steps (a number), or timesteps or sigmas (a list)")
    if schedule.process == "vp":
        return _discrete_path(schedule, rules, steps, compat=compat)
    if schedule.process == "flow":
        return _flow_path(schedule, rules, steps, compat=compat)
    high, low = _ends(schedule, EDM_ENDS[1], EDM_ENDS[0])
    return _at_sigmas(schedule, _spaced_sigmas(schedule, steps, high, low), rules)


def _discrete_path(schedule: Schedule, rules: PathRules, steps: int, *, compat: bool) -> Path:
    if any(getattr(schedule, name) for name in SIGMA_SPACINGS) and rules.trained_ends:
        high, low = _ends(schedule, schedule.ratios[-1], schedule.ratios[0])
        return _at_sigmas(schedule, _spaced_sigmas(schedule, steps, high, low), rules)
    times = spaced_timesteps(
        steps,
        schedule.spaced_range,
        schedule.timestep_spacing,
        schedule.steps_offset,
        fractional=rules.fractional,
        final_point=rules.final_point,
    )
    if compat and steps == 1 and schedule.timestep_spacing == "linspace" and not rules.final_point:
        # diffusers takes np.linspace(0, T - 1, 1), which is 0: its one step starts without noise.
        times = np.zeros(1)
    path = _at_times(schedule, times, floor=compat and rules.floor)
    if not any(getattr(schedule, name) for name in SIGMA_SPACINGS):
        return path
    with np.errstate(divide="ignore"):
        visited = path.sigma / path.alpha
    high, low = _ends(schedule, visited[0], visited[-1])
    return _at_sigmas(schedule, _spaced_sigmas(schedule, steps, high, low), rules)


def _flow_path(schedule: Schedule, rules: PathRules, steps: int, *, compat: bool) -> Path:
    T = schedule.num_train_timesteps
    if rules.flow_from_noise:
        sigmas = _shift(schedule, np.linspace(1.0, 1.0 / T, steps + 1)[:-1])
        if compat:
            sigmas = np.minimum(sigmas, 1.0 - _OFF_NOISE)
        return _at_sigmas(schedule, sigmas, rules)
    if rules.final_point:
        # The DPM-Solver family of diffusers starts just below pure noise.
        sigmas = 1.0 - np.linspace(1.0, 1.0 / T, steps + 1)[:0:-1]
    else:
        ends = np.array([1.0, 1.0 / T])
        if compat and not schedule.use_dynamic_shifting:
            ends = _shift(replace(schedule, shift_terminal=None), ends)
        sigmas = np.linspace(ends[0], ends[1], steps)
    return _at_sigmas(schedule, _shift(schedule, sigmas), rules)


def _shift(schedule: Schedule, sigmas: Float64Array) -> Float64Array:
    """Shift, stretch and respace the sigmas of a flow as its schedule says."""
    if schedule.use_dynamic_shifting:
        raise InvalidArgument(
            "this schedule's shift depends on the image size; sample with schedule.shifted(mu)"
        )
    sigmas = schedule.shift * sigmas / (1.0 + (schedule.shift - 1.0) * sigmas)
    if schedule.shift_terminal is not None:
        sigmas = 1.0 - (1.0 - sigmas) * (1.0 - schedule.shift_terminal) / (1.0 - sigmas[-1])
    if any(getattr(schedule, name) for name in SIGMA_SPACINGS) and len(sigmas) > 1:
        sigmas = _spaced_sigmas(schedule, len(sigmas), *_ends(schedule, sigmas[0], sigmas[-1]))
    return sigmas


def _ends(schedule: Schedule, highest: float, lowest: float) -> tuple[float, float]:
    high = highest if schedule.sigma_max is None else schedule.sigma_max
    low = lowest if schedule.sigma_min is None else schedule.sigma_min
    if not (0 < low <= high < np.inf):
        raise InvalidArgument(
            f"a sigma spacing runs from sigma_max to sigma_min, got {high:g} to {low:g}; with zero "
            "terminal SNR give a finite sigma_max"
        )
    return float(high), float(low)


def _spaced_sigmas(schedule: Schedule, steps: int, high: float, low: float) -> Float64Array:
    """Return sigmas in the spacing of the schedule, which is that of Karras if it names none."""
    for name, spacing in SIGMA_SPACINGS.items():
        if getattr(schedule, name) and name != "use_karras_sigmas":
            return spacing(steps, high, low)
    return karras_sigmas(steps, high, low, schedule.rho)


def _at_sigmas(schedule: Schedule, sigmas: Float64Array, rules: PathRules) -> Path:
    times = schedule.time_at(sigmas)
    rounded = {"no": False, "karras": schedule.use_karras_sigmas, "all": True}
    if rounded[rules.whole_times] and schedule.process == "vp":
        times = np.round(times)
    return Path(times, *schedule.level_at(sigmas))


def _at_times(schedule: Schedule, times: Float64Array, *, floor: bool) -> Path:
    alpha, sigma = schedule.level(times)
    if floor:
        sigma = np.where(alpha == 0, np.sqrt(1.0 - 2.0**-24), sigma)
        alpha = np.where(alpha == 0, 2.0**-12, alpha)
    return Path(times, alpha, sigma)
