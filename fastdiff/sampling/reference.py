"""The plain float64 execution of a table, with which every faster implementation is compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidShape
from fastdiff.sampling.passes import rescale_factors
from fastdiff.sampling.table import StepTable

Float64Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance, m = m_u + scale (m_c - m_u) (arXiv 2207.12598).

    Parameters
    ----------
    scale : float
        g; at 1 the unconditional output has no effect.
    rescale : float
        phi in [0, 1]: how far m is scaled to the deviation of m_c (arXiv 2305.08891, sec. 3.4).
    interval : (low, high)
        Guidance applies where low < sigma / alpha <= high; elsewhere m = m_c (arXiv 2404.07724,
        eq. 6).
    """

    scale: float
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, np.inf)

    def mix(self, outputs: Float64Array, alpha: float, sigma: float) -> Float64Array:
        """Return m for the pair (m_c, m_u) at a noise level."""
        m_c, m_u = outputs
        low, high = self.interval
        if not low * alpha < sigma <= high * alpha:
            return np.asarray(m_c)
        m = m_u + self.scale * (m_c - m_u)
        return np.asarray(_per_image(rescale_factors(m_c, m, self.rescale), m) * m)


@dataclass(frozen=True)
class Inpainting:
    """Keeping an image outside of a mask.

    After each row, x = mask x + (1 - mask) (alpha image + sigma noise), with alpha and sigma of the
    next row.

    Parameters
    ----------
    image, noise, mask : (B, ...) array
        Clean data; the noise that x started from; and 1 where to paint anew, 0 where the image
        stays. They broadcast to x.
    """

    image: npt.NDArray[Any]
    noise: npt.NDArray[Any]
    mask: npt.NDArray[Any]

    def blend(self, x: Float64Array, alpha: float, sigma: float) -> Float64Array:
        """Return x with the noised image outside of the mask."""
        kept = alpha * self.image + sigma * self.noise
        return np.asarray(self.mask * x + (1.0 - self.mask) * kept)


def run_table(
    table: StepTable,
    model: Callable[[Float64Array, float], Any],
    x: npt.ArrayLike,
    noise: Sequence[Any] | npt.NDArray[Any] | None = None,
    *,
    guidance: Guidance | None = None,
    inpainting: Inpainting | None = None,
) -> Float64Array:
    """Run a table in float64, by the formulas of `fastdiff.sampling.table`.

    Parameters
    ----------
    table : StepTable
        The solver.
    model : callable
        ``model(c_in * x, t)`` returns m, or the pair (m, v) with a learned log-variance v.
    x : (B, ...) array
        The initial state, already of standard deviation `table.init_noise_sigma`.
    noise : sequence of arrays, optional
        ``noise[i]`` is z of row i, with the shape of `x`. May be None if no row uses noise.
    guidance : Guidance, optional
        The model then returns (m_c, m_u) stacked, (2, B, ...), as m.
    inpainting : Inpainting, optional
        Keep an image outside of a mask.

    Returns
    -------
    (n, B, ...) float64
        x after each row; the last entry is the sample.

    Raises
    ------
    InvalidShape
        If noise is needed and there is not one array per row.
    """
    x = np.asarray(x, dtype=np.float64)
    if np.any(table.update[..., -1]) and (noise is None or len(noise) != len(table)):
        raise InvalidShape(
            f"{table.name} draws noise: expected {len(table)} arrays, got "
            f"{'none' if noise is None else len(noise)}"
        )
    state = np.zeros((table.history + 1, *x.shape))
    state[0] = x
    trajectory = np.empty((len(table), *x.shape))
    for i, update in enumerate(table.update):
        output, v = model(table.c_in[i] * state[0], float(table.t[i])), 0.0
        if isinstance(output, tuple):
            output, v = output
        m = np.asarray(output, dtype=np.float64)
        if guidance is not None:
            m = guidance.mix(m, float(table.alpha[i]), float(table.sigma[i]))
        D = _bounded(table, i, table.p[i] * state[0] + table.q[i] * m)
        z = np.zeros_like(x)
        if noise is not None and np.any(update[:, -1]):
            z += np.exp(table.w[i] * np.asarray(v)) * np.asarray(noise[i])
        state = np.tensordot(update, np.stack([*state, D, m, z]), 1)
        if inpainting is not None:
            state[0] = inpainting.blend(state[0], *table.levels[i + 1])
        trajectory[i] = state[0]
    return trajectory


def _bounded(table: StepTable, row: int, D: Float64Array) -> Float64Array:
    """Return D, clipped as the row says or thresholded."""
    if table.thresholding is None:
        return np.clip(D, -table.clip[row], table.clip[row])
    limits = _per_image(table.thresholding.limits(D), D)
    return np.clip(D, -limits, limits) / limits


def _per_image(values: Float64Array, like: Float64Array) -> Float64Array:
    return values.reshape(-1, *(1,) * (like.ndim - 1))


def moments(
    table: StepTable,
    denoiser: Callable[[float, float], tuple[float, float]],
    mean: float,
    variance: float,
) -> tuple[float, float]:
    """Return the exact mean and variance at the end of a table, for an affine denoiser.

    Parameters
    ----------
    table : StepTable
        A solver without clipping or learned variance.
    denoiser : callable
        ``denoiser(alpha, sigma)`` returns (d0, d1) with D = d0 + d1 x at that level; for
        Gaussian data this is the true denoiser.
    mean, variance : float
        Of the initial state.
    """
    k = table.history
    mu, covariance = np.zeros(k + 1), np.zeros((k + 1, k + 1))
    mu[0], covariance[0, 0] = mean, variance
    for i, update in enumerate(table.update):
        d0, d1 = denoiser(float(table.alpha[i]), float(table.sigma[i]))
        transition = update[:, : k + 1].copy()
        b, e, s = update[:, -3], update[:, -2], update[:, -1]
        # m = (D - p x) / q
        transition[:, 0] += b * d1 + e * (d1 - table.p[i]) / table.q[i]
        mu = transition @ mu + (b + e / table.q[i]) * d0
        covariance = transition @ covariance @ transition.T + np.outer(s, s)
    return float(mu[0]), float(covariance[0, 0])
