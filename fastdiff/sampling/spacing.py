"""Spacings of noise levels themselves, rather than of training times.

Each function returns `steps` values of sigma from `highest` down to `lowest`; one step is `highest`
alone. The quantile of the beta distribution is computed here in thirty lines, for which SciPy would
be a large dependency.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]

RHO = 7.0
"""Exponent of Karras et al. (arXiv 2206.00364, Table 1)."""

BETA_SHAPE = 0.6
"""Both parameters of the beta distribution (arXiv 2407.12173, sec. 4)."""


def karras_sigmas(steps: int, highest: float, lowest: float, rho: float = RHO) -> Float64Array:
    """Return levels whose 1 / rho powers are evenly spaced (arXiv 2206.00364, eq. 5)."""
    ramp = np.linspace(0.0, 1.0, steps)
    high, low = highest ** (1.0 / rho), lowest ** (1.0 / rho)
    return np.asarray((high + ramp * (low - high)) ** rho)


def exponential_sigmas(steps: int, highest: float, lowest: float) -> Float64Array:
    """Return levels whose logarithms are evenly spaced, as in k-diffusion."""
    return np.exp(np.linspace(math.log(highest), math.log(lowest), steps))


def beta_sigmas(steps: int, highest: float, lowest: float) -> Float64Array:
    """Return levels at even quantiles of a beta distribution (arXiv 2407.12173)."""
    quantiles = [beta_quantile(u, BETA_SHAPE, BETA_SHAPE) for u in 1.0 - np.linspace(0, 1, steps)]
    return lowest + np.array(quantiles) * (highest - lowest)


SIGMA_SPACINGS: dict[str, Callable[[int, float, float], Float64Array]] = {
    "use_karras_sigmas": karras_sigmas,
    "use_exponential_sigmas": exponential_sigmas,
    "use_beta_sigmas": beta_sigmas,
}
"""The spacings by the name of the setting that switches each on in diffusers."""


def beta_quantile(u: float, a: float, b: float) -> float:
    """Return x in [0, 1] with I_x(a, b) = u, by bisection down to neighbouring numbers.

    Parameters
    ----------
    u : float
        Probability in [0, 1].
    a, b : float
        Positive parameters of the beta distribution.
    """
    if u <= 0.0 or u >= 1.0:
        return float(u >= 1.0)
    if u > 0.5:  # near 1, floats are too coarse to search among
        return 1.0 - beta_quantile(1.0 - u, b, a)
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        if _incomplete_beta(middle, a, b) < u:
            low = middle
        else:
            high = middle
    return high


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b) for 0 < x < 1.

    It sums the continued fraction of DLMF 8.17.22 by Lentz's method. Above the mean, where that
    converges slowly, it uses I_x(a, b) = 1 - I_{1-x}(b, a).
    """
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _incomplete_beta(1.0 - x, b, a)
    log_front = a * math.log(x) + b * math.log1p(-x)
    log_front += math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    numerator, denominator, value = 1.0, 0.0, 1.0
    for i in range(200):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        denominator = 1.0 / (1.0 + term * denominator)
        numerator = 1.0 + term / numerator
        value *= numerator * denominator
        if abs(numerator * denominator - 1.0) < 1e-16:
            break
    return math.exp(log_front) * (value - 1.0) / a
