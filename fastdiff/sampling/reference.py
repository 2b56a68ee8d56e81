"""Plain float64 execution of a table, the measure of every faster path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fastdiff.errors import InvalidShape
from fastdiff.sampling.table import StepTable

Float64Array = npt.NDArray[np.float64]


def run_table(
    table: StepTable,
    model: Callable[[Float64Array, float], Any],
    x: npt.ArrayLike,
    noise: Sequence[Any] | npt.NDArray[Any] | None = None,
) -> Float64Array:
    """Run a table in float64, as written in `fastdiff.sampling.table`.

    Parameters
    ----------
    table : StepTable
        The solver.
    model : callable
        ``model(c_in * x, t)`` returns m, or the pair (m, v) with a learned log-variance v.
    x : array
        The initial state, already of standard deviation `table.init_noise_sigma`.
    noise : sequence of arrays, optional
        ``noise[i]`` is z of row i, with the shape of `x`. May be None if no row uses noise.

    Returns
    -------
    (n, ...) float64
        x after each row; the last entry is the sample.

    Raises
    ------
    InvalidShape
        If noise is needed and there is not one array per row.
    """
    k = table.history
    x = np.asarray(x, dtype=np.float64)
    if np.any(table.update[..., -1]) and (noise is None or len(noise) != len(table)):
        raise InvalidShape(
            f"{table.name} draws noise: expected {len(table)} arrays, got "
            f"{'none' if noise is None else len(noise)}"
        )
    state = np.zeros((k + 1, *x.shape))
    state[0] = x
    trajectory = np.empty((len(table), *x.shape))
    for i, update in enumerate(table.update):
        output, v = model(table.c_in[i] * state[0], float(table.t[i])), 0.0
        if isinstance(output, tuple):
            output, v = output
        m = np.asarray(output, dtype=np.float64)
        D = np.clip(table.p[i] * state[0] + table.q[i] * m, -table.clip[i], table.clip[i])
        z = np.zeros_like(x)
        if noise is not None and np.any(update[:, -1]):
            z += np.exp(table.w[i] * np.asarray(v)) * np.asarray(noise[i])
        state = np.tensordot(update, np.stack([*state, D, m, z]), 1)
        trajectory[i] = state[0]
    return trajectory


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
