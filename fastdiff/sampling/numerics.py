"""Functions of the log-SNR that solvers share, accurate where their textbook forms cancel."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Float64Array = npt.NDArray[np.float64]


def log_snr(alpha: npt.ArrayLike, sigma: npt.ArrayLike) -> Float64Array:
    """Return lambda = log(alpha / sigma), inf at sigma = 0 and -inf at alpha = 0."""
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(alpha) - np.log(sigma), dtype=np.float64)


def phi(n: int, z: float) -> float:
    """Return phi_n(z) of exponential integrators.

    phi_0 = exp and phi_{n+1}(z) = (phi_n(z) - 1/n!) / z. For small z this recursion cancels, so the
    Taylor series sum_j z^j / (n + j)! is summed instead. phi_n(-inf) = 0.
    """
    if z == -math.inf:
        return 0.0
    if abs(z) < 1.0:
        return math.fsum(z**j / math.factorial(n + j) for j in range(24))
    value = math.exp(z)
    for j in range(n):
        value = (value - 1.0 / math.factorial(j)) / z
    return value


def ancestral_std(
    alpha: Float64Array | float,
    sigma: Float64Array | float,
    alpha_to: Float64Array | float,
    sigma_to: Float64Array | float,
    eta: float = 1.0,
) -> Float64Array:
    """Return the standard deviation of a step's fresh noise.

    It is eta sigma_to sqrt(1 - (r_to / r)^2) with r = sigma / alpha. In any coordinates this is
    the noise of DDIM (arXiv 2010.02502, eq. 16), for eta = 1 the posterior deviation of DDPM
    (arXiv 2006.11239, eq. 7), sigma_up of the ancestral samplers of k-diffusion, and the noise of
    the first-order SDE-DPM-Solver++ (arXiv 2211.01095).
    """
    scale = np.asarray(alpha_to) * sigma
    # Both terms are 0 for a step from pure noise to itself, which adds no noise.
    ratio = np.divide(sigma_to * alpha, scale, out=np.ones_like(scale), where=scale != 0)
    return np.asarray(eta * sigma_to * np.sqrt(np.maximum(0.0, 1.0 - ratio * ratio)))
