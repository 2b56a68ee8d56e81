"""The identities that every solver table must satisfy.

Let the data be one constant X, so that a correct denoiser always returns X. Then x = alpha X +
sigma N, and the network returns m = mX X + mN N with N = (x - alpha X) / sigma. Every row is then
affine in the state, so the mean of the state (the coefficient of X) and its noise can be computed
exactly from row to row.

========== =======================================================================================
check      requires
========== =======================================================================================
finite     every coefficient is finite (clip may be inf), and clip is positive
denoised   p alpha + q mX = 1 and p sigma + q mN = 0: the denoised estimate of exact output is X
input      c_in hypot(sigma_data alpha, sigma) = 1: the network sees the unit variance that it was
           trained with; or c_in = 1 where it takes x itself
levels     a row starts at the noise level where the one before ended
history    no history slot is read before it is written
mean       the mean after a row is alpha_to
variance   the deviation after a row is sigma_to
moments    rows of order o >= 2 integrate polynomials of degree < o, see `fastdiff.sampling.order`
========== =======================================================================================
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastdiff.errors import TableError
from fastdiff.sampling.order import TOLERANCE, wrong_moments
from fastdiff.sampling.prediction import signature

if TYPE_CHECKING:
    from fastdiff.sampling.table import StepTable

WAIVABLE = ("levels", "mean", "variance", "moments")
"""Checks that a method may break on purpose; the others mean that the table cannot run."""

Float64Array = npt.NDArray[np.float64]
Failure = tuple[str, int, str]


def prove(table: StepTable) -> set[str]:
    """Check every identity that the table does not waive; return the names of those that fail.

    Raises
    ------
    TableError
        A check fails that is not waived. The message names the row, the check and the numbers.
    """
    unknown = sorted(set(table.waived) - set(WAIVABLE))
    if unknown:
        raise TableError(
            f"{table.name}: check {unknown[0]!r} cannot be waived; those that can: "
            f"{', '.join(WAIVABLE)}"
        )
    failed = set()
    # The order of the checks matters: each may rely on those before it.
    for checks in (_finite, _local, _history, _recursion, _moments):
        for check, row, detail in checks(table):
            if check not in table.waived:
                raise TableError(f"{table.name}: row {row} fails the check {check!r}: {detail}")
            failed.add(check)
    idle = sorted(set(table.waived) - failed)
    if idle and not table.compat:
        raise TableError(
            f"{table.name}: the check {idle[0]!r} is waived ({table.waived[idle[0]]}) but holds; "
            "remove the waiver"
        )
    return failed


def _finite(table: StepTable) -> Iterator[Failure]:
    for name in ("update", "p", "q", "t", "c_in", "alpha", "sigma", "alpha_to", "sigma_to", "w"):
        values = getattr(table, name).reshape(len(table), -1)
        for row in np.flatnonzero(~np.all(np.isfinite(values), axis=1)):
            yield "finite", int(row), f"{name} is {getattr(table, name)[row]}"
    for row in np.flatnonzero(~(table.clip > 0)):
        yield "finite", int(row), f"clip is {table.clip[row]}, expected a positive limit or inf"


def _local(table: StepTable) -> Iterator[Failure]:
    """Check each row by itself, and that it ends at the noise level where the next one starts."""
    for i in range(len(table)):
        alpha, sigma = float(table.alpha[i]), float(table.sigma[i])
        mX, mN = signature(table.prediction_type, alpha, sigma, table.sigma_data)
        data, noise = table.p[i] * alpha + table.q[i] * mX, table.p[i] * sigma + table.q[i] * mN
        if abs(data - 1.0) > TOLERANCE or abs(noise) > TOLERANCE * max(1.0, sigma):
            yield "denoised", i, f"p, q give {data:.9g} X + {noise:.3g} N at exact output, not X"
        spread = 1.0 if table.raw_input else math.hypot(alpha * table.sigma_data, sigma)
        if abs(table.c_in[i] * spread - 1.0) > TOLERANCE:
            yield "input", i, f"c_in = {table.c_in[i]:.9g}, expected {1.0 / spread:.9g}"
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
        # A slot that depends on an unwritten one counts as unwritten. x' must not depend on one.
        tainted = np.any(reads & ~written, axis=1)
        if tainted[0]:
            slot = int(np.flatnonzero(reads[0] & ~written)[0]) + 1
            yield "history", i, f"x' reads history slot {slot}, which nothing has written"
        written = np.any(update[1:] != 0, axis=1) & ~tainted[1:]


def _recursion(table: StepTable) -> Iterator[Failure]:
    """Compute the mean of the state, and its weights on independent noises, for constant data.

    Weights are used because a covariance would lose half of the digits where noises cancel, as they
    do in a step to sigma = 0.
    """
    k = table.history
    mean, noises = np.zeros(k + 1), np.zeros((k + 1, 0))
    for i, update in enumerate(table.update):
        alpha, sigma = float(table.alpha[i]), float(table.sigma[i])
        mean[0], noises = alpha, _enter_level(noises, sigma, first=i == 0)
        mX, mN = signature(table.prediction_type, alpha, sigma, table.sigma_data)
        transition, e, fresh = update[:, : k + 1].copy(), update[:, -2], [update[:, -1]]
        drift = update[:, -3] + e * mX
        if sigma > 0:
            transition[:, 0] += e * (mN / sigma)
            drift -= e * (mN * alpha / sigma)
        else:  # x is the data itself, so the N in the output is independent of it
            fresh.append(e * mN)
        mean = transition @ mean + drift
        noises = np.column_stack([transition @ noises, *(z for z in fresh if np.any(z))])
        std = float(np.linalg.norm(noises[0]))
        alpha_to, sigma_to = table.alpha_to[i], table.sigma_to[i]
        allowed = TOLERANCE * max(alpha_to, sigma_to)
        if abs(mean[0] - alpha_to) > allowed:
            yield "mean", i, f"it lands on mean {mean[0]:.9g}, its level is {alpha_to:.9g}"
        if abs(std - sigma_to) > allowed:
            yield "variance", i, f"it lands on std {std:.9g}, its level is {sigma_to:.9g}"


def _enter_level(noises: Float64Array, sigma: float, *, first: bool) -> Float64Array:
    """Set slot 0 to the row's noise level, so that a wrong row does not fail those after it."""
    std = float(np.linalg.norm(noises[0]))
    if first or std == 0.0:
        start = np.zeros((len(noises), 1))
        start[0] = sigma
        return np.hstack([noises * (np.arange(len(noises)) > 0)[:, None], start])
    noises[0] *= sigma / std
    return noises


def _moments(table: StepTable) -> Iterator[Failure]:
    for row, detail in wrong_moments(table):
        yield "moments", row, detail
