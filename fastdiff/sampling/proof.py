"""The identities that every solver table must satisfy.

Let the data be one constant X, so that a right denoiser always answers X. Then x = alpha X +
sigma N, the network answers m = mX X + mN N with N = (x - alpha X) / sigma, every row is affine in
the state, and its mean (the coefficient of X) and covariance can be carried along exactly.

========== =======================================================================================
check      requires
========== =======================================================================================
finite     every coefficient is finite (clip may be inf), and clip is positive
denoised   p alpha + q mX = 1 and p sigma + q mN = 0: the denoised estimate of exact output is X
input      c_in hypot(alpha, sigma) = 1: the network sees the unit variance it was trained with
levels     a row starts at the level where the one before ended
history    no history slot is read before it is written
mean       the mean after a row is alpha_to
variance   the variance after a row is sigma_to^2
moments    rows of order o >= 2 integrate every D(lambda) that is a polynomial of degree < o
========== =======================================================================================

Differences of D vanish for constant data, so ``mean`` and ``variance`` cannot see a wrong weight
of a multistep method; ``moments`` does. There lambda = log(alpha / sigma), and the weights w_j of
D_{i-j} in x' satisfy, with tau_j = lambda_{i-j} - lambda_i and step h,

    sum_j w_j tau_j^d = alpha_to int_0^h c exp(-c (h - tau)) tau^d dtau,    d = 0 .. o - 1,

with c = 1 for the probability flow and c = 2 for the reverse SDE (DPM-Solver++, arXiv 2211.01095).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastdiff.errors import TableError
from fastdiff.sampling.numerics import log_snr, phi
from fastdiff.sampling.prediction import signature

if TYPE_CHECKING:
    from fastdiff.sampling.table import StepTable

WAIVABLE = ("levels", "mean", "variance", "moments")
"""Checks that a method may break on purpose; the others mean that the table cannot run."""

MOMENT_RULES = ("exact", "midpoint")

TOLERANCE = 1e-9
"""Allowed error, relative to the size of the level."""

Float64Array = npt.NDArray[np.float64]
Failure = tuple[str, int, str]


def prove(table: StepTable) -> None:
    """Check every identity, honouring the waivers of the table.

    Raises
    ------
    TableError
        Naming the row, the check and the numbers.
    """
    unknown = sorted(set(table.waived) - set(WAIVABLE))
    if unknown:
        raise TableError(
            f"{table.name}: check {unknown[0]!r} cannot be waived; those that can: "
            f"{', '.join(WAIVABLE)}"
        )
    failed = set()
    # The checks come in an order in which each may rely on those before it.
    for checks in (_finite, _local, _history, _recursion, _moments):
        for check, row, detail in checks(table):
            if check not in table.waived:
                raise TableError(f"{table.name}: row {row} fails the check {check!r}: {detail}")
            failed.add(check)
    idle = sorted(set(table.waived) - failed)
    if idle:
        raise TableError(
            f"{table.name}: the check {idle[0]!r} is waived ({table.waived[idle[0]]}) but holds; "
            "remove the waiver"
        )


def _finite(table: StepTable) -> Iterator[Failure]:
    for name in ("update", "p", "q", "t", "c_in", "alpha", "sigma", "alpha_to", "sigma_to", "w"):
        values = getattr(table, name).reshape(len(table), -1)
        for row in np.flatnonzero(~np.all(np.isfinite(values), axis=1)):
            yield "finite", int(row), f"{name} is {getattr(table, name)[row]}"
    for row in np.flatnonzero(~(table.clip > 0)):
        yield "finite", int(row), f"clip is {table.clip[row]}, expected a positive limit or inf"


def _local(table: StepTable) -> Iterator[Failure]:
    """Check each row alone, and against the level of the next."""
    for i in range(len(table)):
        alpha, sigma = float(table.alpha[i]), float(table.sigma[i])
        mX, mN = signature(table.prediction_type, alpha, sigma)
        data, noise = table.p[i] * alpha + table.q[i] * mX, table.p[i] * sigma + table.q[i] * mN
        if abs(data - 1.0) > TOLERANCE or abs(noise) > TOLERANCE * max(1.0, sigma):
            yield "denoised", i, f"p, q give {data:.9g} X + {noise:.3g} N at exact output, not X"
        scale = table.c_in[i] * math.hypot(alpha, sigma)
        if abs(scale - 1.0) > TOLERANCE:
            yield "input", i, f"c_in hypot(alpha, sigma) = {scale:.9g}, expected 1"
    ends = zip(table.alpha_to[:-1], table.sigma_to[:-1], strict=True)
    for i, (alpha_to, sigma_to) in enumerate(ends):
        gap = max(abs(table.alpha[i + 1] - alpha_to), abs(table.sigma[i + 1] - sigma_to))
        if gap > TOLERANCE * max(alpha_to, sigma_to):
            yield (
                "levels",
                i,
                f"it steps to ({alpha_to:.9g}, {sigma_to:.9g}), the next row starts at "
                f"({table.alpha[i + 1]:.9g}, {table.sigma[i + 1]:.9g})",
            )


def _history(table: StepTable) -> Iterator[Failure]:
    written = np.zeros(table.history, bool)
    for i, update in enumerate(table.update):
        reads = update[:, 1 : table.history + 1] != 0
        # A slot that depends on an unwritten one is itself unwritten; only x' must not.
        tainted = np.any(reads & ~written, axis=1)
        if tainted[0]:
            slot = int(np.flatnonzero(reads[0] & ~written)[0]) + 1
            yield "history", i, f"x' reads history slot {slot}, which nothing has written"
        written = np.any(update[1:] != 0, axis=1) & ~tainted[1:]


def _recursion(table: StepTable) -> Iterator[Failure]:
    """Carry mean and covariance of the state through the rows, for constant data."""
    k = table.history
    mean, covariance = np.zeros(k + 1), np.zeros((k + 1, k + 1))
    for i, update in enumerate(table.update):
        _enter_level(mean, covariance, table.alpha[i], table.sigma[i], first=i == 0)
        mX, mN = signature(table.prediction_type, float(table.alpha[i]), float(table.sigma[i]))
        transition, e = update[:, : k + 1].copy(), update[:, -2]
        noise = np.outer(update[:, -1], update[:, -1])
        drift = update[:, -3] + e * mX
        if table.sigma[i] > 0:
            transition[:, 0] += e * (mN / table.sigma[i])
            drift -= e * (mN * table.alpha[i] / table.sigma[i])
        else:  # x is the data itself, so the N in the output is independent of it
            noise += np.outer(e, e) * mN**2
        mean = transition @ mean + drift
        covariance = transition @ covariance @ transition.T + noise
        std = math.sqrt(max(float(covariance[0, 0]), 0.0))
        alpha_to, sigma_to = table.alpha_to[i], table.sigma_to[i]
        allowed = TOLERANCE * max(alpha_to, sigma_to)
        if abs(mean[0] - alpha_to) > allowed:
            yield "mean", i, f"it lands on mean {mean[0]:.9g}, its level is {alpha_to:.9g}"
        if abs(std - sigma_to) > allowed:
            yield "variance", i, f"it lands on std {std:.9g}, its level is {sigma_to:.9g}"


def _enter_level(
    mean: Float64Array, covariance: Float64Array, alpha: float, sigma: float, *, first: bool
) -> None:
    """Put slot 0 on the row's own level, so that one bad row is not blamed on those after it."""
    std = math.sqrt(max(float(covariance[0, 0]), 0.0))
    mean[0] = alpha
    if first or std == 0.0:
        covariance[0, 0] = sigma * sigma
        return
    covariance[0, :] *= sigma / std
    covariance[:, 0] *= sigma / std


def _moments(table: StepTable) -> Iterator[Failure]:
    """Check the order of multistep rows; see the module's docstring for the conditions."""
    if np.all(table.order <= 1):
        return
    lambdas = log_snr(table.alpha, table.sigma)
    weights = _history_weights(table)
    for i in np.flatnonzero(table.order > 1):
        alpha_to, sigma_to = float(table.alpha_to[i]), float(table.sigma_to[i])
        h = float(log_snr(alpha_to, sigma_to)) - float(lambdas[i])
        c = 2.0 if table.update[i, 0, -1] else 1.0
        used = np.flatnonzero(weights[i])
        w, tau = weights[i, used], lambdas[used] - lambdas[i]
        if not (math.isfinite(h) and np.all(np.isfinite(tau))):
            yield "moments", int(i), "order 2 or more needs finite log-SNR on all its levels"
            continue
        reach = float(np.max(np.abs(tau), initial=1.0))
        for degree in range(int(table.order[i])):
            got = float(np.sum(w * tau**degree))
            want = alpha_to * _data_integral(degree, c, h)
            if degree == 1 and table.moment_rule == "midpoint":
                want = alpha_to * _data_integral(0, c, h) * h / 2
            if abs(got - want) > TOLERANCE * alpha_to * reach**degree:
                yield "moments", int(i), f"moment {degree} is {got:.9g}, expected {want:.9g}"


def _data_integral(degree: int, c: float, h: float) -> float:
    """Return int_0^h c exp(-c (h - tau)) tau^degree dtau."""
    return math.factorial(degree) * c * h ** (degree + 1) * phi(degree + 1, -c * h)


def _history_weights(table: StepTable) -> Float64Array:
    """Return the weight of each D_j in each x', (n, n), for history that holds only D."""
    n, k = len(table), table.history
    weights, slots = np.zeros((n, n)), np.zeros((k, n))
    for i, update in enumerate(table.update):
        values = update[:, 1 : k + 1] @ slots
        values[:, i] += update[:, -3]
        weights[i], slots = values[0], values[1:]
    return weights
