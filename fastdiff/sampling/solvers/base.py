"""What every solver family shares: its options, its time grid, and the assembly of its table."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.numerics import ancestral_std
from fastdiff.sampling.prediction import conversion_coefficients, denoised_coefficients
from fastdiff.sampling.schedule import Schedule
from fastdiff.sampling.table import StepTable
from fastdiff.sampling.timesteps import check_steps, check_timesteps, spaced_timesteps

REGISTRY: dict[str, type[Solver]] = {}
"""Every solver class by name; a class enters when it is defined."""

COMPAT = ("diffusers",)

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """The levels a table visits; every field is (n,) float64.

    Parameters
    ----------
    t : array
        What the network gets as time.
    alpha, sigma, alpha_to, sigma_to : array
        Levels before and after each row.
    c_in : array
        Scale of the network's input.
    """

    t: Float64Array
    alpha: Float64Array
    sigma: Float64Array
    alpha_to: Float64Array
    sigma_to: Float64Array
    c_in: Float64Array


@dataclass(frozen=True)
class Solver(ABC):
    """A solver family with its options; `table` turns it into data.

    A subclass names itself, ``class DDIM(Solver, name="ddim")``, which registers it; its dataclass
    fields are its options. ``scheduler`` is the diffusers class whose configurations it runs.
    """

    name: ClassVar[str]
    scheduler: ClassVar[str] = ""
    fractional_times: ClassVar[bool] = False
    final_point: ClassVar[bool] = False

    def __init_subclass__(cls, *, name: str, scheduler: str = "", **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.name, cls.scheduler = name, scheduler
        REGISTRY[name] = cls

    def __post_init__(self) -> None:
        """Check the options whose type says all; a subclass checks the others."""
        for option in fields(self):
            value, kind = getattr(self, option.name), str(option.type)
            flag = isinstance(value, bool) or (value is None and "None" in kind)
            if kind.startswith("bool") and not flag:
                raise InvalidArgument(f"{option.name} must be True or False, got {value!r}")
        limit = getattr(self, "clip_sample_range", None)
        if limit is not None:
            check_number("clip_sample_range", limit, 1e-6, 1e6)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Solver | None:
        """Return this solver with the options of a diffusers configuration, or None if not its.

        Options that a `Schedule` holds as well stay None, which means "as the schedule says".
        """
        if not cls.scheduler or config.get("_class_name") != cls.scheduler:
            return None
        own = {f.name for f in fields(cls)} - {f.name for f in fields(Schedule)}
        return cls(**{key: config[key] for key in own if config.get(key) is not None})

    def table(
        self,
        schedule: Schedule,
        steps: int | None = None,
        timesteps: Sequence[float] | None = None,
        compat: str | None = None,
    ) -> StepTable:
        """Return the rows that sample `schedule` with this solver.

        Parameters
        ----------
        schedule : Schedule
            How the model was trained.
        steps : int, optional
            Model evaluations, 1 to ``schedule.num_train_timesteps``, spaced as the schedule says.
        timesteps : sequence of float, optional
            The times themselves, strictly descending, instead of `steps`.
        compat : {"diffusers"}, optional
            Reproduce the deviations of diffusers, listed in docs/conformance.md.

        Raises
        ------
        InvalidArgument
            If neither or contradicting steps and timesteps are given, they are out of range, or
            the prediction type cannot be used on this schedule.
        UnknownName
            If `compat` is unknown.
        """
        if compat is not None and compat not in COMPAT:
            raise UnknownName("compat", compat, COMPAT)
        T = schedule.num_train_timesteps
        if steps is not None:
            steps = check_steps(steps, T)
        if timesteps is not None:
            times = check_timesteps(timesteps, T, steps)
        elif steps is None:
            raise InvalidArgument("give steps (a number) or timesteps (a list)")
        else:
            times = spaced_timesteps(
                steps,
                T,
                schedule.timestep_spacing,
                schedule.steps_offset,
                fractional=self.fractional_times,
                final_point=self.final_point,
            )
            if compat and steps == 1 and schedule.timestep_spacing == "linspace":
                # np.linspace(0, T - 1, 1) is 0: one step from where there is no noise.
                times = times if self.final_point else np.zeros(1)
        return self._build(schedule, times, compat == "diffusers")

    @abstractmethod
    def _build(self, schedule: Schedule, times: Float64Array, compat: bool) -> StepTable:
        """Return the table for descending `times`."""

    def _assemble(
        self,
        schedule: Schedule,
        grid: Grid,
        update: Float64Array,
        *,
        clip: float = np.inf,
        w: npt.ArrayLike = 0.0,
        order: npt.ArrayLike = 1,
        **extra: Any,
    ) -> StepTable:
        """Complete `update` with what follows from the grid and the prediction type."""
        n = len(grid.t)
        p, q = denoised_coefficients(schedule.prediction_type, grid.alpha, grid.sigma)
        return StepTable(
            name=self.name,
            prediction_type=schedule.prediction_type,
            update=update,
            p=p,
            q=q,
            clip=np.full(n, clip),
            t=grid.t,
            c_in=grid.c_in,
            alpha=grid.alpha,
            sigma=grid.sigma,
            alpha_to=grid.alpha_to,
            sigma_to=grid.sigma_to,
            w=np.broadcast_to(w, n),
            order=np.broadcast_to(order, n),
            **extra,
        )


def vp_grid(
    schedule: Schedule, times: Float64Array, final: tuple[float, float], *, floor: bool = False
) -> Grid:
    """Return levels in the variance preserving coordinates of training, ending at `final`.

    With `floor`, alpha^2 = 2^-24 stands in for the 0 of zero terminal SNR, as in the diffusers
    schedulers that divide by alpha.
    """
    alpha, sigma = schedule.level(times)
    if floor:
        alpha = np.where(alpha == 0, 2.0**-12, alpha)
        sigma = np.where(alpha == 2.0**-12, math.sqrt(1.0 - 2.0**-24), sigma)
    return Grid(
        t=times,
        alpha=alpha,
        sigma=sigma,
        alpha_to=np.append(alpha[1:], final[0]),
        sigma_to=np.append(sigma[1:], final[1]),
        c_in=np.ones(len(times)),
    )


def ve_grid(
    schedule: Schedule, times: Float64Array, final: tuple[float, float], *, floor: bool = False
) -> Grid:
    """Return the same levels in variance exploding coordinates, x / alpha.

    Raises
    ------
    InvalidArgument
        If a level has alpha = 0, where the ratio is infinite.
    """
    grid = vp_grid(schedule, times, final, floor=floor)
    if np.any(grid.alpha == 0):
        raise InvalidArgument(
            "sigma / alpha is infinite at zero terminal SNR, so a solver in these coordinates "
            "cannot start there; use 'ddim' (the same step as 'euler') or 'dpmpp_2m', or "
            "compat='diffusers', which starts just above"
        )
    ones = np.ones(len(times))
    return replace(
        grid,
        alpha=ones,
        sigma=grid.sigma / grid.alpha,
        alpha_to=ones,
        sigma_to=grid.sigma_to / grid.alpha_to,
        c_in=grid.alpha,
    )


def final_level(schedule: Schedule) -> tuple[float, float]:
    """Where the Euler and DPM-Solver families end: sigma 0, or the level of time 0."""
    if schedule.final_sigmas_type == "zero":
        return 1.0, 0.0
    alpha, sigma = schedule.level(0)
    return alpha, sigma


def first_order_update(
    schedule: Schedule, grid: Grid, eta: float = 0.0, *, noise_from_clipped: bool = True
) -> Float64Array:
    """Return x' = alpha_to D + sqrt(sigma_to^2 - std^2) epsilon + std z, (n, 1, 4).

    This is DDIM (arXiv 2010.02502, eq. 12 and 16) in any coordinates: with eta = 0 also Euler's
    method in sigma / alpha, with eta = 1 also the ancestral one.

    Parameters
    ----------
    schedule : Schedule
        For the prediction type.
    grid : Grid
        The levels.
    eta : float
        Share of the ancestral noise.
    noise_from_clipped : bool
        Take epsilon = (x - alpha D) / sigma with D as clipped; otherwise the network's own.
    """
    std = ancestral_std(grid.alpha, grid.sigma, grid.alpha_to, grid.sigma_to, eta)
    direction = np.sqrt(np.maximum(0.0, grid.sigma_to**2 - std**2))
    update = np.zeros((len(grid.t), 1, 4))
    x, D, m, z = np.moveaxis(update[:, 0], 1, 0)
    D += grid.alpha_to
    z += std
    if noise_from_clipped:
        x += direction / grid.sigma
        D -= direction * grid.alpha / grid.sigma
    else:
        a, b = conversion_coefficients(schedule.prediction_type, "epsilon", grid.alpha, grid.sigma)
        x += direction * a
        m += direction * b
    return update


def clip_limit(
    schedule: Schedule, clip_sample: bool | None, clip_sample_range: float | None
) -> float:
    """Return the magnitude at which D is clipped, inf for none; None asks the schedule."""
    if not (schedule.clip_sample if clip_sample is None else clip_sample):
        return np.inf
    return schedule.clip_sample_range if clip_sample_range is None else float(clip_sample_range)


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """Refuse an option that is not a number from `least` to `most`."""
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (number and least <= value <= most):
        raise InvalidArgument(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")
