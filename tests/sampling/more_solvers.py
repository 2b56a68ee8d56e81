"""Solvers that fastdiff does not ship, as tables: proof that the record is general enough.

Heun (EDM, arXiv 2206.00364, Algorithm 1), DPM-Solver++ 3M (arXiv 2211.01095), UniPC with its
corrector (arXiv 2302.04867), PNDM with either warm-up (arXiv 2202.09778) and DEIS in log rho
(arXiv 2204.13902), over any descending levels.
"""

import itertools
import math

import numpy as np

from fastdiff.sampling import StepTable, denoised_coefficients
from fastdiff.sampling.numerics import log_snr, phi


class Columns:
    """Unit vectors of (x, H1..Hk, D, m, z), to write rows as linear combinations."""

    def __init__(self, history):
        unit = np.eye(history + 4)
        self.x, self.H, (self.D, self.m, self.z) = unit[0], unit[1:-3], unit[-3:]


def table(name, rows, levels, final, kind="sample", order=1, times=None):
    """Rows are lists of new slots (x', H1', ...); levels[i] is that of row i."""
    n, k = len(rows), max(len(row) for row in rows) - 1
    update = np.zeros((n, k + 1, rows[0][0].size))
    for i, row in enumerate(rows):
        update[i, : len(row)] = row
    alpha, sigma = np.array(levels).T
    to = np.array([*levels[1:], final])
    p, q = denoised_coefficients(kind, alpha, sigma)
    return StepTable(
        name=name,
        prediction_type=kind,
        update=update,
        p=p,
        q=q,
        clip=np.full(n, np.inf),
        t=np.arange(n, 0, -1.0) if times is None else np.array(times, float),
        c_in=1 / np.hypot(alpha, sigma),
        alpha=alpha,
        sigma=sigma,
        alpha_to=to[:, 0],
        sigma_to=to[:, 1],
        w=np.zeros(n),
        order=np.broadcast_to(order, n),
    )


def heun(sigmas):
    """H1 holds x + d h / 2, so the second evaluation completes the trapezoid."""
    c, rows, levels = Columns(1), [], []
    for s, s2 in itertools.pairwise(sigmas):
        slope, h = (c.x - c.D) / s, s2 - s
        levels.append((1.0, s))
        if s2 == 0:
            rows.append([c.x + h * slope])
            continue
        rows.append([c.x + h * slope, c.x + h / 2 * slope])
        rows.append([c.H[0] + h / 2 * (c.x - c.D) / s2])
        levels.append((1.0, s2))
    return table("heun", rows, levels, (1.0, sigmas[-1]))


def dpmpp_3m(alpha, sigma, second_weight=2.0):
    """Third order; `second_weight` 1 is the half weight of the authors' released code."""
    lambdas, c, rows, orders = log_snr(alpha, sigma), Columns(2), [], []
    for i in range(len(alpha) - 1):
        h, order = lambdas[i + 1] - lambdas[i], min(i + 1, 3)
        new = sigma[i + 1] / sigma[i] * c.x - alpha[i + 1] * math.expm1(-h) * c.D
        if order > 1:
            r0 = (lambdas[i] - lambdas[i - 1]) / h
            first = (c.D - c.H[0]) / r0
            if order > 2:
                r1 = (lambdas[i - 1] - lambdas[i - 2]) / h
                second = (first - (c.H[0] - c.H[1]) / r1) / (r0 + r1)
                first = first + r0 * second
                new = new + alpha[i + 1] * second_weight * h * phi(3, -h) * second
            new = new + alpha[i + 1] * h * phi(2, -h) * first
        rows.append([new, c.D, c.H[0]])
        orders.append(order)
    levels = list(zip(alpha, sigma, strict=True))
    return table("dpmpp_3m", rows, levels[:-1], levels[-1], order=orders)


def _unipc_weights(lambdas, i, order, *, corrector):
    """Weights of (D_{i+1}, D_i, D_{i-1}, ..) in the step from level i, by exact moments (bh2)."""
    h = lambdas[i + 1] - lambdas[i]
    nodes = [lambdas[i - j] - lambdas[i] for j in range(order)] + [h] * corrector
    count = len(nodes)
    moments = [math.factorial(d) * h ** (d + 1) * phi(d + 1, -h) for d in range(count)]
    weights = np.linalg.solve(np.vander(nodes, count, increasing=True).T, moments)
    return (weights[-1], weights[:-1]) if corrector else (0.0, weights)


def unipc(alpha, sigma, order):
    """Multistep UniPC with exact moments: the corrected x is folded into the next prediction."""
    lambdas, c, rows, orders, last = log_snr(alpha, sigma), Columns(order), [], [], 0
    for i in range(len(alpha) - 1):
        x = c.x
        if i:
            ahead, corrected = _unipc_weights(lambdas, i - 1, last, corrector=True)
            _, predicted = _unipc_weights(lambdas, i - 1, last, corrector=False)
            x = x + alpha[i] * (ahead * c.D + (corrected - predicted) @ c.H[:last])
        # The correction repairs x, so from an exact x the row has the order of the one before.
        orders.append(max(last, 1))
        last = min(order, i + 1)
        _, weights = _unipc_weights(lambdas, i, last, corrector=False)
        new = sigma[i + 1] / sigma[i] * x + alpha[i + 1] * (
            weights[0] * c.D + weights[1:] @ c.H[: last - 1]
        )
        rows.append([new, c.D, *c.H[:-1]])
    levels = list(zip(alpha, sigma, strict=True))
    return table(f"unipc_{order}", rows, levels[:-1], levels[-1], order=orders)


def deis(alpha, sigma, order):
    """Adams-Bashforth of epsilon in log rho, rho = sigma / alpha; the integrals by quadrature."""
    u, c, rows = np.log(sigma / alpha), Columns(order - 1), []
    nodes, quadrature = np.polynomial.legendre.leggauss(40)
    for i in range(len(alpha) - 1):
        span = u[i + 1] - u[i]
        v, weight = span * (nodes + 1) / 2, quadrature * span / 2 * np.exp(u[i])
        own = (c.x - alpha[i] * c.D) / sigma[i]
        past = [own, *c.H][: min(order, i + 1)]
        points = [u[i - j] - u[i] for j in range(len(past))]
        total = 0
        for j, value in enumerate(past):
            others = [(v - b) / (points[j] - b) for b in points if b != points[j]]
            basis = np.prod(others, axis=0) if others else np.ones_like(v)
            total = total + np.sum(weight * np.exp(v) * basis) * value
        rows.append([alpha[i + 1] * (c.x / alpha[i] + total), own, *c.H[:-1]])
    levels = list(zip(alpha, sigma, strict=True))
    return table(f"deis_{order}", rows, levels[:-1], levels[-1])


_ADAMS = {
    1: [1.0],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
}


def pndm(level, times, stride, *, runge_kutta):
    """PNDM on network outputs (epsilon); level(t) -> (alpha, sigma), also for negative t.

    H1..H3 are the last outputs; the Runge-Kutta warm-up needs a fourth slot. A step's start is not
    stored where the stage determines it.
    """
    c = Columns(4 if runge_kutta else 3)
    rows, seen = [], []

    def gains(t, to):
        (a, s), (a2, s2) = level(t), level(to)
        return a2 / a, s2 - a2 * s / a

    def move(x, m, t, to):
        gx, gm = gains(t, to)
        return gx * x + gm * m

    def add(t, *slots):
        rows.append(list(slots))
        seen.append(t)

    def multistep(t, order):
        outputs = [c.m, *c.H[:3]][:order]
        mixed = sum(w * m for w, m in zip(_ADAMS[order], outputs, strict=True))
        add(t, move(c.x, mixed, t, t - stride), c.m, c.H[0], c.H[1])

    if runge_kutta:
        for t in times[:3]:
            half, end = t - stride // 2, t - stride
            add(t, move(c.x, c.m, t, half), c.m, c.H[0], c.H[1])
            gx, gm = gains(t, half)
            start = (c.x - gm * c.H[0]) / gx
            add(half, move(start, c.m, t, half), *c.H[:3], start)
            first = (c.x - gx * c.H[3]) / gm
            total = c.H[0] / 6 + (first + c.m) / 3
            add(half, move(c.H[3], c.m, t, end), *c.H[:3], move(c.H[3], total, t, end))
            add(end, c.H[3] + gains(t, end)[1] / 6 * c.m, *c.H[:3])
        for t in times[3:]:
            multistep(t, 4)
    else:
        t = times[0]
        add(t, move(c.x, c.m, t, t - stride), c.m)
        gx, gm = gains(t, t - stride)
        start = (c.x - gm * c.H[0]) / gx
        add(t - stride, move(start, (c.m + c.H[0]) / 2, t, t - stride), c.H[0])
        for n, t in enumerate(times[1:]):
            multistep(t, min(4, n + 2))
    name = "pndm_prk" if runge_kutta else "pndm_plms"
    levels = [level(t) for t in seen]
    return table(name, rows, levels, level(times[-1] - stride), "epsilon", times=seen)
