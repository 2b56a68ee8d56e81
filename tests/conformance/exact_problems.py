"""Data whose denoiser and whose marginals are known exactly, and measured orders on them.

The data are Gaussian (closed-form denoiser, closed-form probability flow) or a mixture of two
Gaussians (closed-form denoiser, reference by Runge-Kutta). The last level has sigma > 0, where the
flow is smooth.
"""

from dataclasses import dataclass, field, fields

import numpy as np
from scipy.integrate import solve_ivp

from fastdiff.sampling import Schedule, StepTable, get_solver, moments, run_table

MEAN, VARIANCE = 0.3, 0.25
MODES, WEIGHTS, SPREAD = np.array([-1.0, 0.8]), np.array([0.4, 0.6]), 0.05
SCHEDULE = Schedule(
    prediction_type="sample",
    set_alpha_to_one=False,
    final_sigmas_type="sigma_min",
    clip_sample=False,
    beta_start=1e-3,
)
STARTS = np.linspace(-2.0, 2.1, 23)
RATIOS = np.sqrt(1 / SCHEDULE.alphas_cumprod - 1)
HIGHEST = 10.0
"""sigma / alpha where sampling starts."""


def gaussian(x, alpha, sigma):
    """E[X | x] of one Gaussian."""
    spread = alpha**2 * VARIANCE + sigma**2
    return (MEAN * sigma**2 + alpha * VARIANCE * x) / spread


def mixture(x, alpha, sigma):
    """E[X | x] of two."""
    spread = alpha**2 * SPREAD + sigma**2
    log_weight = np.log(WEIGHTS) - (x[..., None] - alpha * MODES) ** 2 / (2 * spread)
    weight = np.exp(log_weight - log_weight.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    return np.sum(weight * (MODES * sigma**2 + alpha * SPREAD * x[..., None]) / spread, -1)


def affine(alpha, sigma):
    """(d0, d1) with gaussian(x) = d0 + d1 x."""
    spread = alpha**2 * VARIANCE + sigma**2
    return MEAN * sigma**2 / spread, alpha * VARIANCE / spread


def exact_flow(denoiser, x, start, end):
    """The probability flow from level `start` to `end`, for x / alpha in log(sigma / alpha)."""
    (a, s), (a2, s2) = start, end
    if denoiser is gaussian:
        growth = np.sqrt((VARIANCE * a2**2 + s2**2) / (VARIANCE * a**2 + s**2))
        return a2 * MEAN + growth * (x - a * MEAN)
    flow = solve_ivp(
        lambda u, y: y - denoiser(y, 1.0, np.exp(u)),
        (np.log(s / a), np.log(s2 / a2)),
        x / a,
        method="DOP853",
        rtol=1e-12,
        atol=1e-12,
    )
    return a2 * flow.y[:, -1]


def network_of(table, denoiser):
    """The exact denoiser as a network of `table`, in the coordinates that the network sees."""
    rows = iter(range(len(table)))

    def network(x_in, _):
        i = next(rows)
        return denoiser(x_in, table.c_in[i] * table.alpha[i], table.c_in[i] * table.sigma[i])

    return network


def even_times(steps):
    """`steps` times, evenly spaced in log-SNR together with the final level, that of time 0."""
    ratios = np.exp(np.linspace(np.log(HIGHEST), np.log(RATIOS[0]), steps + 1))
    return {"timesteps": np.interp(ratios[:-1], RATIOS, np.arange(1000))}


def graded_sigmas(steps):
    """Levels even in log-SNR after two steps of squared size: the start is of lower order."""
    high, low = np.log(HIGHEST), np.log(RATIOS[0])
    h = (high - low) / steps
    head = high - h * h * np.arange(2)
    rest = np.linspace(high - 2 * h * h, low, steps - 1)[:-1]
    return {"sigmas": np.exp([*head, *rest]).tolist()}


def linear_times(steps):
    """Times that are even in time, as PNDM needs them."""
    return {"timesteps": np.linspace(900.0, 0.0, steps + 1)[:-1]}


@dataclass(frozen=True)
class Case:
    """A solver without noise, the order that it should have, and the levels that show it."""

    solver: str
    order: int
    options: dict = field(default_factory=dict)
    grid: object = even_times
    slack: float = 0.25  # how far below its order a method may still be at these steps
    steps: tuple = (60, 120, 240)  # multiples of 2 and 3, the evaluations of a singlestep solver

    @property
    def label(self):
        return " ".join([self.solver, *(f"{key}={value}" for key, value in self.options.items())])

    def table(self, steps, compat=None):
        solver = get_solver(self.solver, **self.options)
        return solver.table(SCHEDULE, **self.grid(steps), compat=compat)

    def error(self, denoiser, steps, compat=None):
        """Largest error at the end, over the starts."""
        table = self.table(steps, compat)
        x = STARTS * (table.init_noise_sigma if self.grid is even_times else 1.0)
        *_, end = table.levels
        want = exact_flow(denoiser, x, table.levels[0], end)
        return np.max(np.abs(run_table(table, network_of(table, denoiser), x)[-1] - want))


_EXACT, _WHOLE = {"solver_type": "heun"}, {"lower_order_final": False}
CASES = (
    Case("ddim", 1),
    Case("euler", 1),
    Case("dpmpp_1", 1),
    Case("probability_flow", 1),
    Case("heun", 2),
    Case("kdpm2", 2),
    Case("deis", 2, {"solver_order": 2}),
    Case("unipc", 2, {"solver_order": 1}),
    Case("dpmpp_2m", 2, {"solver_type": "midpoint"}),
    Case("dpmpp_2m", 2, _EXACT),
    Case("dpmpp_single", 2, {"solver_order": 2}),
    Case("dpmpp_single", 2, {"solver_order": 2, **_EXACT}),
    Case("pndm", 2, {"skip_prk_steps": False}, linear_times, steps=(200, 400)),
    Case("pndm", 2, {"skip_prk_steps": True}, linear_times, steps=(200, 400)),
    Case("dpmpp_3m", 3, {}, graded_sigmas),
    Case("dpmpp_single", 3, {"solver_order": 3}, slack=0.3),
    Case("dpmpp_single", 3, {"solver_order": 3, **_EXACT}, slack=0.3),
    Case("deis", 3, {"solver_order": 3}, graded_sigmas),
    Case("unipc", 3, {"solver_order": 2, "solver_type": "bh1", **_WHOLE}, graded_sigmas),
    Case("unipc", 3, {"solver_order": 2, "solver_type": "bh2", **_WHOLE}, graded_sigmas),
    Case("unipc", 3, {"solver_order": 3, **_WHOLE}, graded_sigmas),
)


def measured_order(errors):
    """Slope over both halvings together: errors of single ones change sign on the way."""
    return np.log2(errors[0] / errors[-1]) / (len(errors) - 1)


@dataclass(frozen=True)
class NoisyCase:
    """A solver that draws noise, and the order of its variance."""

    solver: str
    order: int
    options: dict = field(default_factory=dict)

    label = Case.label

    def table(self, steps):
        table = get_solver(self.solver, **self.options).table(SCHEDULE, **even_times(steps))
        # ddpm always ends on the data; stop where the flow is smooth.
        return without_last_row(table) if self.solver == "ddpm" else table

    def errors(self, steps):
        """Of the mean and of the variance at the end, exactly, for the Gaussian."""
        table = self.table(steps)
        (a, s), (end, left) = table.levels[[0, -1]]
        mean, variance = moments(table, affine, a * MEAN, a**2 * VARIANCE + s**2)
        return abs(mean - end * MEAN), abs(variance - (end**2 * VARIANCE + left**2))


NOISY_CASES = (
    NoisyCase("ddpm", 1),
    NoisyCase("ddpm", 1, {"variance_type": "fixed_large"}),
    NoisyCase("ddim", 1, {"eta": 0.5}),
    NoisyCase("ddim", 1, {"eta": 1.0}),
    NoisyCase("euler_ancestral", 1),
    NoisyCase("reverse_sde", 1),
    NoisyCase("dpmpp_1_sde", 1),
    NoisyCase("dpmpp_sde", 2),
    NoisyCase("dpmpp_3m_sde", 2),
    NoisyCase("heun", 2, {"s_churn": 4.0}),
    NoisyCase("kdpm2_ancestral", 2),
    NoisyCase("dpmpp_2m_sde", 2, {"solver_type": "midpoint"}),
    NoisyCase("dpmpp_2m_sde", 2, {"solver_type": "heun"}),
)
NOISY_STEPS = (50, 100, 200)


def without_last_row(table):
    """The same table, one row shorter."""
    pieces = {f.name: getattr(table, f.name) for f in fields(table)}
    rows = {k: v[:-1] for k, v in pieces.items() if isinstance(v, np.ndarray)}
    return StepTable(**{**pieces, **rows})
