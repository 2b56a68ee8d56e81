"""The order of a row, proved by integrating polynomials.

For constant data all differences of D are zero, so the checks of mean and variance cannot see the
higher-order weights of a method. They are checked with exact solutions along which a quantity f is
a polynomial of degree d: a row of order o must integrate f without error for every d < o. Which
quantity that is, the *basis*, depends on what the solver family interpolates. Its argument is zero
at the noise level of the row:

======== ============================ ==========================================================
basis    f                            exact solution with x = 0 at the level of the row
======== ============================ ==========================================================
data     D = tau^d,                   x = alpha int_0^tau c e^(-c (tau - s)) s^d ds, with c = 1 for
         tau = change of lambda       the probability flow and c = 2 for the reverse SDE
                                      (DPM-Solver++, arXiv 2211.01095)
epsilon  epsilon = v^d,               x = alpha int f drho, rho = e^v sigma / alpha
         v = change of log rho        (DEIS, arXiv 2204.13902)
slope    dx/dsigma = s^d,             x = s^(d + 1) / (d + 1)
         s = change of sigma          (Heun, arXiv 2206.00364)
======== ============================ ==========================================================

Every earlier evaluation is taken to be at the exact solution: x and D of the rows before have its
values, and what a history slot holds follows from them. A row that completes a step of two
evaluations is thus checked as a quadrature formula. Only an x inside a step is not exact: it is
what the row before computes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from fastdiff.sampling.numerics import log_snr, phi

if TYPE_CHECKING:
    from fastdiff.sampling.table import StepTable

BASES = ("data", "epsilon", "slope")

RULES = ("exact", "midpoint", "leading")
"""How rows of order 2 integrate degree 1: exactly; as step / 2 times the integral of degree 0
(DPM-Solver++ "midpoint"); or up to a term of the next order in the step (UniPC, which sets a
weight to 1/2)."""

TOLERANCE = 1e-9
"""Allowed error, relative to the size of the noise level."""

Float64Array = npt.NDArray[np.float64]


def wrong_moments(table: StepTable) -> Iterator[tuple[int, str]]:
    """Yield each row whose weights do not have its order, and what is wrong."""
    rows = np.flatnonzero(table.order > 1)
    if rows.size == 0:
        return
    recipes = _recipes(table)
    for i in rows.tolist():
        used = np.flatnonzero(np.any(recipes[i], axis=0))
        alpha = np.append(table.alpha[used], table.alpha_to[i])
        sigma = np.append(table.sigma[used], table.sigma_to[i])
        start = i - int(np.argmin(table.inner[i::-1]))  # the first row of the step
        solution = _Solution(table, start, alpha, sigma)
        if not np.all(np.isfinite(solution.places)):
            yield i, "order 2 or more needs finite log-SNR on all its levels"
            continue
        for degree in range(int(table.order[i])):
            x, D = solution.values(degree)
            got = float(np.sum(recipes[i][:, used] * np.array([x[:-1], D[:-1]])))
            want, allowed = float(x[-1]), TOLERANCE * solution.size(degree)
            if degree == 1 and table.order[i] == 2:
                if table.moment_rule == "midpoint":
                    want = float(solution.values(0)[0][-1]) * float(solution.places[-1]) / 2
                elif table.moment_rule == "leading":
                    allowed = solution.size(0) * solution.reach**3 / 4
            if abs(got - want) > allowed:
                yield i, f"moment {degree} is {got:.9g}, expected {want:.9g}"


def _recipes(table: StepTable) -> Float64Array:
    """Return the weight of every x_j and D_j in each x', (n, 2, n)."""
    n, k = len(table), table.history
    recipes, slots = np.zeros((n, 2, n)), np.zeros((k, 2, n))
    for i, update in enumerate(table.update):
        values = np.tensordot(update[:, 1 : k + 1], slots, 1)
        x = np.zeros((2, n))
        x[0, i] = 1.0
        if table.inner[i]:
            x = recipes[i - 1]
        values += np.multiply.outer(update[:, 0], x)
        values[:, 1, i] += update[:, -3]
        if np.any(update[:, -2]):  # m = (D - p x) / q
            values -= np.multiply.outer(update[:, -2] * table.p[i] / table.q[i], x)
            values[:, 1, i] += update[:, -2] / table.q[i]
        recipes[i], slots = values[0], values[1:]
    return recipes


class _Solution:
    """Exact solutions of one row's equation, at given levels."""

    def __init__(
        self, table: StepTable, row: int, alpha: Float64Array, sigma: Float64Array
    ) -> None:
        self.basis, self.alpha, self.sigma = table.moment_basis, alpha, sigma
        if self.basis == "slope":
            self.places = sigma - table.sigma[row]
        else:
            tau = log_snr(alpha, sigma) - log_snr(table.alpha[row], table.sigma[row])
            self.places = tau if self.basis == "data" else -tau
        self.reach = float(np.max(np.abs(self.places)))
        self.rate = 2.0 if table.update[row, 0, -1] else 1.0

    def values(self, degree: int) -> tuple[Float64Array, Float64Array]:
        """Return x and D at the levels, where f is of this degree."""
        f = self.places**degree
        if self.basis == "slope":
            x = self.places ** (degree + 1) / (degree + 1)
            return x, x - self.sigma * f
        c = self.rate if self.basis == "data" else 1.0
        integrals = [
            math.factorial(degree) * c * tau ** (degree + 1) * phi(degree + 1, -c * tau)
            for tau in self.places.tolist()
        ]
        x = (self.alpha if self.basis == "data" else self.sigma) * np.array(integrals)
        return x, f if self.basis == "data" else (x - self.sigma * f) / self.alpha

    def size(self, degree: int) -> float:
        """Return the size of x' to which an error at this degree is relative."""
        if self.basis == "slope":
            return self.reach ** (degree + 1)
        level = self.alpha if self.basis == "data" else self.sigma
        return float(level[-1]) * max(1.0, self.reach) ** degree
