"""Which training times a sampler visits.

The three spacings are those of Table 2 in "Common Diffusion Noise Schedules and Sample Steps are
Flawed" (arXiv 2305.08891), with the roundings of the diffusers schedulers.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, UnknownName

SMALLEST_STEP = 1e-3
"""Least distance of two times; the coefficients of a shorter step would be rounding errors."""

SPACINGS = ("leading", "trailing", "linspace")

Float64Array = npt.NDArray[np.float64]


def check_steps(steps: object, num_train_timesteps: int) -> int:
    """Return `steps` as an int.

    Raises
    ------
    InvalidArgument
        If it is not a whole number from 1 to `num_train_timesteps`.
    """
    expected = f"steps must be a whole number from 1 to {num_train_timesteps}, got {steps!r}"
    if isinstance(steps, bool):
        raise InvalidArgument(expected)
    try:
        count = operator.index(steps)  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgument(expected) from None
    if not 1 <= count <= num_train_timesteps:
        raise InvalidArgument(expected)
    return count


def spaced_timesteps(
    steps: int,
    num_train_timesteps: int = 1000,
    spacing: str = "leading",
    steps_offset: int = 0,
    *,
    fractional: bool = False,
    final_point: bool = False,
) -> Float64Array:
    """Return the times of the model evaluations, from noise to data.

    Parameters
    ----------
    steps : int
        How many times to return, 1 to `num_train_timesteps`.
    num_train_timesteps : int
        T; times run from 0 to T - 1.
    spacing : {"leading", "trailing", "linspace"}
        ``leading``: multiples of T // steps, which never reach T - 1. ``trailing``: down from
        T - 1 by T / steps. ``linspace``: evenly from T - 1 to 0.
    steps_offset : int
        Added to the times of ``leading``.
    fractional : bool
        Keep the fractions of ``linspace`` (the Euler family) instead of rounding.
    final_point : bool
        Space steps + 1 points and leave the last one, where the sampler ends, to the caller (the
        DPM-Solver family). ``trailing`` already ends where nothing is evaluated.

    Returns
    -------
    (steps,) float64
        Strictly descending.

    Raises
    ------
    InvalidArgument
        If `steps` is out of range, or the spacing gives times outside 0..T - 1 or twice the same.
    UnknownName
        If `spacing` is unknown.
    """
    steps, T = check_steps(steps, num_train_timesteps), num_train_timesteps
    points = steps + 1 if final_point else steps
    if spacing == "leading":
        times = np.arange(points)[::-1] * float(T // points) + steps_offset
    elif spacing == "trailing":
        # The cut matters: rounding makes this arange one point too long for some counts (61 of
        # 1000), and that point would be time -1.
        times = np.round(np.arange(T, 0, -T / steps))[:steps] - 1.0
    elif spacing == "linspace":
        # A single point is where sampling starts, T - 1; np.linspace would give 0.
        times = np.linspace(0, T - 1, points)[::-1] if points > 1 else np.array([T - 1.0])
        times = times if fractional else np.round(times)
    else:
        raise UnknownName("timestep spacing", spacing, SPACINGS)
    return check_timesteps(
        times[:steps], T, origin=f"spacing {spacing!r} with steps={steps}, offset {steps_offset}"
    )


def check_timesteps(
    timesteps: Sequence[float] | npt.ArrayLike,
    num_train_timesteps: int,
    steps: int | None = None,
    origin: str = "timesteps",
) -> Float64Array:
    """Return explicit times as a float64 array.

    Parameters
    ----------
    timesteps : sequence of numbers
        Descending by at least `SMALLEST_STEP`, each in 0..T - 1. Fractions are allowed.
    num_train_timesteps : int
        T.
    steps : int, optional
        How many there must be.
    origin : str
        What to call them in an error.

    Raises
    ------
    InvalidArgument
        If they are empty, not finite, out of range, not descending, or not `steps` many.
    """
    try:
        times = np.array(timesteps, dtype=np.float64)
    except (TypeError, ValueError):
        raise InvalidArgument(f"{origin}: expected a list of numbers, got {timesteps!r}") from None
    if times.ndim != 1 or times.size == 0:
        raise InvalidArgument(f"{origin}: expected a non-empty list, got shape {times.shape}")
    if steps is not None and len(times) != steps:
        raise InvalidArgument(
            f"{origin}: steps={steps} but {len(times)} timesteps; give one of the two, or make "
            "them agree"
        )
    last = num_train_timesteps - 1
    outside = times[~((times >= 0) & (times <= last))]
    if outside.size:
        raise InvalidArgument(
            f"{origin}: times must lie in 0..{last}, got {outside[0]:g}; check steps_offset and "
            "num_train_timesteps"
        )
    repeats = np.flatnonzero(np.diff(times) > -SMALLEST_STEP)
    if repeats.size:
        i = int(repeats[0])
        raise InvalidArgument(
            f"{origin}: times must descend by at least {SMALLEST_STEP:g}, got {times[i]:g} then "
            f"{times[i + 1]:g}; use fewer steps or another spacing"
        )
    return times
