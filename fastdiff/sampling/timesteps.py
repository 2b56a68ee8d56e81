"""Spacings of training times: at which of them a sampler evaluates the network.

The three spacings are those of Table 2 in "Common Diffusion Noise Schedules and Sample Steps are
Flawed" (arXiv 2305.08891), with the roundings of the diffusers schedulers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling.checks import whole_number

SMALLEST_STEP = 1e-3
"""Least distance of two times; the coefficients of a shorter step would be rounding errors."""

SPACINGS = ("leading", "trailing", "linspace")

Float64Array = npt.NDArray[np.float64]


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
    T = num_train_timesteps
    steps = whole_number("steps", steps, 1, T)
    points = steps + 1 if final_point else steps
    if spacing == "leading":
        times = np.arange(points)[::-1] * float(T // points) + steps_offset
    elif spacing == "trailing":
        # Rounding makes this arange one point too long for some counts, such as 61 of 1000. That
        # point would be time -1, so it is cut off.
        times = np.round(np.arange(T, 0, -T / steps))[:steps] - 1.0
    elif spacing == "linspace":
        # A single point is where sampling starts, T - 1; np.linspace would give 0.
        times = np.linspace(0, T - 1, points)[::-1] if points > 1 else np.array([T - 1.0])
        times = times if fractional else np.round(times)
    else:
        raise UnknownName("timestep spacing", spacing, SPACINGS)
    return check_timesteps(
        times[:steps],
        (0, T - 1),
        origin=f"spacing {spacing!r} with steps={steps}, offset {steps_offset}",
        remedy="check steps_offset and num_train_timesteps",
    )


def check_timesteps(
    timesteps: Sequence[float] | npt.ArrayLike,
    limits: tuple[float, float],
    steps: int | None = None,
    origin: str = "timesteps",
    apart: float = SMALLEST_STEP,
    remedy: str = "",
) -> Float64Array:
    """Return explicit times, or sigmas, as a float64 array.

    Parameters
    ----------
    timesteps : sequence of numbers
        Descending by at least `apart`, each within `limits`. Fractions are allowed.
    limits : tuple
        Least and greatest value.
    steps : int, optional
        How many there must be.
    origin : str
        What to call them in an error.
    apart : float
        Least distance of two of them; with 0 they must merely differ.
    remedy : str
        What to do about a value that is out of range.

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
            f"{origin}: steps={steps} but {len(times)} {origin}; give one of the two, or make "
            "them agree"
        )
    low, high = limits
    outside = times[~(np.isfinite(times) & (times >= low) & (times <= high))]
    if outside.size:
        problem = f"{origin}: values must lie in {low:g}..{high:g}, got {outside[0]:g}"
        raise InvalidArgument("; ".join(filter(None, (problem, remedy))))
    gaps = -np.diff(times)
    repeats = np.flatnonzero((gaps <= 0) | (gaps < apart))
    if repeats.size:
        i = int(repeats[0])
        least = f" by at least {apart:g}" if apart else ""
        raise InvalidArgument(
            f"{origin}: values must descend{least}, got {times[i]:g} then {times[i + 1]:g}; use "
            "fewer steps or another spacing"
        )
    return times
