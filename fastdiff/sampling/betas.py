"""The noise schedules of training in discrete time: betas and their products."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidArgument

BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid")

Float64Array = npt.NDArray[np.float64]


def named_betas(name: str, start: float, end: float, T: int) -> Float64Array:
    """Return the (T,) betas of one of `BETA_SCHEDULES`."""
    if name == "linear":
        return np.linspace(start, end, T)
    if name == "scaled_linear":
        return np.asarray(np.linspace(math.sqrt(start), math.sqrt(end), T) ** 2)
    if name == "sigmoid":
        return np.asarray((end - start) / (1.0 + np.exp(-np.linspace(-6.0, 6.0, T))) + start)
    alpha_bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * math.pi / 2) ** 2
    return np.asarray(np.minimum(1.0 - alpha_bar[1:] / alpha_bar[:-1], 0.999))


def trained_betas(values: Any, T: int) -> tuple[float, ...]:
    """Return betas that a user gives.

    Raises
    ------
    InvalidArgument
        If they are not T numbers.
    """
    try:
        betas = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InvalidArgument("trained_betas must be a sequence of numbers") from None
    if len(betas) != T:
        raise InvalidArgument(
            f"trained_betas has {len(betas)} values, num_train_timesteps is {T}; make them agree"
        )
    return betas


def products(betas: Float64Array, *, zero_snr: bool) -> Float64Array:
    """Return alphas_cumprod, rescaled to end at 0 with `zero_snr` (arXiv 2305.08891, Alg. 1).

    Raises
    ------
    InvalidArgument
        If they do not descend within (0, 1). With `zero_snr` the last one may be 0.
    """
    alphas_cumprod = np.cumprod(1.0 - betas)
    if zero_snr:
        with np.errstate(divide="ignore", invalid="ignore"):  # NaN and infinity are refused below
            root = np.sqrt(alphas_cumprod)
            alphas_cumprod = ((root - root[-1]) * (root[0] / (root[0] - root[-1]))) ** 2
    inner, last = alphas_cumprod[:-1], alphas_cumprod[-1]
    descending = np.all(np.diff(alphas_cumprod) < 0) and np.all((inner > 0) & (inner < 1))
    if len(inner) and descending and last == 0 and not zero_snr:
        raise InvalidArgument(
            "the last beta is 1, which is zero terminal SNR; say rescale_betas_zero_snr=True, "
            "which leaves such betas as they are"
        )
    if not (descending and 0 <= last < 1):
        raise InvalidArgument(
            "the betas must lie in (0, 1) and leave alphas_cumprod strictly decreasing and "
            f"positive; it runs from {alphas_cumprod[0]:g} to {last:g}: check "
            "beta_start, beta_end, trained_betas and num_train_timesteps"
        )
    return np.asarray(alphas_cumprod, dtype=np.float64)
