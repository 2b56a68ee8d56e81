"""Solvers against exact answers: order of convergence, and exact variances.

The data are Gaussian (closed-form denoiser, closed-form probability flow) or a mixture of two
Gaussians (closed-form denoiser, reference by Runge-Kutta). The last level has sigma > 0, where the
flow is smooth. Times are spaced evenly in log-SNR.
"""

from dataclasses import fields

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from fastdiff.sampling import Schedule, StepTable, get_solver, moments, run_table
from fastdiff.sampling.numerics import phi

MEAN, VARIANCE = 0.3, 0.25
MODES, WEIGHTS, SPREAD = np.array([-1.0, 0.8]), np.array([0.4, 0.6]), 0.05
SCHEDULE = Schedule(
    prediction_type="sample",
    set_alpha_to_one=False,
    final_sigmas_type="sigma_min",
    clip_sample=False,
    beta_start=1e-3,
)
STARTS = np.array([-1.7, -0.9, -0.2, 0.3, 1.1, 2.0])
RATIOS = np.sqrt(1 / SCHEDULE.alphas_cumprod - 1)


def even_times(steps, start=10.0):
    """`steps` times, evenly spaced in log-SNR together with the final level, that of time 0."""
    ratios = np.exp(np.linspace(np.log(start), np.log(RATIOS[0]), steps + 1))
    return np.interp(ratios[:-1], RATIOS, np.arange(1000))


def gaussian(x, alpha, sigma):
    spread = alpha**2 * VARIANCE + sigma**2
    return (MEAN * sigma**2 + alpha * VARIANCE * x) / spread


def mixture(x, alpha, sigma):
    spread = alpha**2 * SPREAD + sigma**2
    log_weight = np.log(WEIGHTS) - (x[..., None] - alpha * MODES) ** 2 / (2 * spread)
    weight = np.exp(log_weight - log_weight.max(-1, keepdims=True))
    weight /= weight.sum(-1, keepdims=True)
    return np.sum(weight * (MODES * sigma**2 + alpha * SPREAD * x[..., None]) / spread, -1)


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


def sample(table, denoiser, x):
    """Run a table whose network is the exact denoiser, in the coordinates the network sees."""
    rows = iter(range(len(table)))

    def network(x_in, _):
        i = next(rows)
        return denoiser(x_in, table.c_in[i] * table.alpha[i], table.c_in[i] * table.sigma[i])

    return run_table(table, network, x)[-1]


@pytest.mark.parametrize("denoiser", [gaussian, mixture])
@pytest.mark.parametrize(
    ("solver", "options", "order", "error"),
    [
        ("ddim", {}, 1, 0.02),
        ("euler", {}, 1, 0.02),
        ("dpmpp_1", {}, 1, 0.02),
        ("probability_flow", {}, 1, 0.04),
        ("heun", {}, 2, 1e-3),
        ("kdpm2", {}, 2, 1e-3),
        ("deis", {"solver_order": 2}, 2, 2e-3),
        ("unipc", {"solver_order": 1}, 2, 2e-3),
        ("dpmpp_2m", {"solver_type": "midpoint"}, 2, 2e-3),
        ("dpmpp_2m", {"solver_type": "heun"}, 2, 2e-3),
    ],
)
def test_order_of_convergence(denoiser, solver, options, order, error):
    errors = []
    for steps in (80, 160, 320):
        table = get_solver(solver, **options).table(SCHEDULE, timesteps=even_times(steps))
        x = STARTS * table.init_noise_sigma
        start = (table.alpha[0], table.sigma[0])
        end = (table.alpha_to[-1], table.sigma_to[-1])
        want = exact_flow(denoiser, x, start, end)
        errors.append(np.max(np.abs(sample(table, denoiser, x) - want)))
    assert errors[0] < error
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), order, atol=0.12)


def graded_sigmas(steps):
    """Levels even in log-SNR after two steps of squared size: the start is of lower order."""
    spans = np.log(np.array([10.0, RATIOS[0]]))
    h = (spans[0] - spans[1]) / steps
    head = spans[0] - h * h * np.arange(2)
    return np.exp([*head, *np.linspace(spans[0] - 2 * h * h, spans[1], steps + 1)[:-1]])


@pytest.mark.parametrize("denoiser", [gaussian, mixture])
@pytest.mark.parametrize(
    ("solver", "options", "order"),
    [
        ("dpmpp_3m", {}, 3),
        ("deis", {"solver_order": 3}, 3),
        ("unipc", {"solver_order": 2, "solver_type": "bh1", "lower_order_final": False}, 3),
        ("unipc", {"solver_order": 2, "solver_type": "bh2", "lower_order_final": False}, 3),
        ("unipc", {"solver_order": 3, "lower_order_final": False}, 3),  # 4 on the Gaussian
    ],
)
def test_higher_orders_of_convergence(denoiser, solver, options, order):
    errors = []
    for steps in (80, 160, 320):
        table = get_solver(solver, **options).table(SCHEDULE, sigmas=graded_sigmas(steps).tolist())
        start, end = (table.alpha[0], table.sigma[0]), (table.alpha_to[-1], table.sigma_to[-1])
        want = exact_flow(denoiser, STARTS, start, end)
        errors.append(np.max(np.abs(sample(table, denoiser, STARTS) - want)))
    assert errors[0] < 5e-4
    # Over both halvings together: errors of single ones change sign on the way.
    assert np.log2(errors[0] / errors[2]) / 2 > order - 0.25, errors


def test_released_third_order_code_is_second_order():
    """What diffusers' half weight costs: docs/conformance.md."""
    errors = {"diffusers": [], None: []}
    for compat, found in errors.items():
        for steps in (80, 160):
            table = get_solver("dpmpp_3m").table(
                SCHEDULE, sigmas=graded_sigmas(steps).tolist(), compat=compat
            )
            start, end = (table.alpha[0], table.sigma[0]), (table.alpha_to[-1], table.sigma_to[-1])
            want = exact_flow(gaussian, STARTS, start, end)
            found.append(np.max(np.abs(sample(table, gaussian, STARTS) - want)))
    theirs, ours = (np.log2(np.divide(*errors[key])) for key in ("diffusers", None))
    assert theirs == pytest.approx(2.1, abs=0.2)
    assert ours > 2.8


def without_last_row(table):
    pieces = {f.name: getattr(table, f.name) for f in fields(table)}
    rows = {k: v[:-1] for k, v in pieces.items() if isinstance(v, np.ndarray)}
    return StepTable(**{**pieces, **rows})


@pytest.mark.parametrize(
    ("solver", "options", "order"),
    [
        ("ddpm", {}, 1),
        ("ddpm", {"variance_type": "fixed_large"}, 1),
        ("ddim", {"eta": 0.5}, 1),
        ("ddim", {"eta": 1.0}, 1),
        ("euler_ancestral", {}, 1),
        ("dpmpp_1_sde", {}, 1),
        ("dpmpp_sde", {}, 2),
        ("dpmpp_3m_sde", {}, 2),
        ("heun", {"s_churn": 4.0}, 2),
        ("kdpm2_ancestral", {}, 2),
        ("dpmpp_2m_sde", {"solver_type": "midpoint"}, 2),
        ("dpmpp_2m_sde", {"solver_type": "heun"}, 2),
    ],
)
def test_variance_of_stochastic_solvers_converges_to_the_data(solver, options, order):
    errors = []
    for steps in (100, 200, 400):
        table = get_solver(solver, **options).table(SCHEDULE, timesteps=even_times(steps))
        if solver == "ddpm":  # it always ends on the data; stop where the flow is smooth
            table = without_last_row(table)
        a, s = table.alpha[0], table.sigma[0]
        mean, variance = moments(table, affine, a * MEAN, a**2 * VARIANCE + s**2)
        end, left = table.alpha_to[-1], table.sigma_to[-1]
        assert mean == pytest.approx(end * MEAN, abs=1e-12)
        errors.append(abs(variance - (end**2 * VARIANCE + left**2)))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), order, atol=0.15)


def test_reverse_sde_converges_to_the_data():
    """Euler-Maruyama misses the mean too, by its order."""
    errors = []
    for steps in (100, 200, 400):
        table = get_solver("reverse_sde").table(SCHEDULE, timesteps=even_times(steps))
        a, s = table.alpha[0], table.sigma[0]
        mean, variance = moments(table, affine, a * MEAN, a**2 * VARIANCE + s**2)
        end, left = table.alpha_to[-1], table.sigma_to[-1]
        wrong = [mean - end * MEAN, variance - (end**2 * VARIANCE + left**2)]
        errors.append(np.abs(wrong))
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.15)


def test_inversion_followed_by_ddim_gives_the_data_back():
    """Both are first order: the error halves with the step, and is small at 400."""
    errors = []
    for steps in (100, 200, 400):
        times = even_times(steps)
        back = get_solver("ddim_inverse").table(SCHEDULE, timesteps=times, compat=None)
        forth = get_solver("ddim").table(SCHEDULE, timesteps=times)
        x0 = np.linspace(-1.2, 1.4, 7)
        rows = iter(range(len(back)))

        def at_target(x, _, back=back, rows=rows):
            i = next(rows)  # x is still at the level that the step leaves
            return gaussian(x, back.alpha[i], back.sigma[i])

        noise = run_table(back, at_target, x0)[-1]
        errors.append(np.max(np.abs(sample(forth, gaussian, noise) - x0)))
    assert errors[-1] < 0.02
    np.testing.assert_allclose(np.log2(np.array(errors[:-1]) / errors[1:]), 1, atol=0.2)


def affine(alpha, sigma):
    spread = alpha**2 * VARIANCE + sigma**2
    return MEAN * sigma**2 / spread, alpha * VARIANCE / spread


def test_ddpm_variances_are_exact_for_their_two_extremes():
    """fixed_large for data N(0, 1), fixed_small for a point (DDPM, sec. 3.2), at every level."""
    for variance_type, data in (("fixed_large", 1.0), ("fixed_small", 0.0)):
        table = get_solver("ddpm", variance_type=variance_type).table(SCHEDULE, 20)

        def denoiser(alpha, sigma, data=data):
            return 0.0, alpha * data / (alpha**2 * data + sigma**2)

        start = table.alpha[0] ** 2 * data + table.sigma[0] ** 2
        for _ in range(19):
            table = without_last_row(table)
            want = table.alpha_to[-1] ** 2 * data + table.sigma_to[-1] ** 2
            assert moments(table, denoiser, 0.0, start)[1] == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "euler_ancestral", "dpmpp_2m_sde"])
def test_moments_are_those_of_impulses_through_the_loop(solver):
    """For a linear network the variance is the sum of squared responses to unit impulses."""
    options = {"eta": 0.7} if solver == "ddim" else {}
    table = get_solver(solver, **options).table(SCHEDULE, 9)

    impulses, rows = np.eye(10), iter(range(9))

    def network(x_in, _):
        i = next(rows)
        return affine(table.alpha[i], table.sigma[i])[1] * x_in / table.c_in[i]

    out = run_table(table, network, impulses[0], impulses[1:])[-1]
    _, variance = moments(table, lambda a, s: (0.0, affine(a, s)[1]), 0.0, 1.0)
    assert variance == pytest.approx(np.sum(out**2), rel=1e-12)


def test_phi_functions_do_not_cancel():
    assert phi(0, 0.3) == pytest.approx(np.exp(0.3), rel=1e-15)
    for z in (-1e-9, 1e-5, -0.999999, -1.000001, -30.0):
        assert phi(1, z) == pytest.approx(np.expm1(z) / z, rel=1e-14)
        by_quadrature = solve_ivp(
            lambda s, _, z=z: np.exp((1 - s) * z) * s, (0, 1), [0.0], rtol=1e-12, atol=1e-14
        ).y[0, -1]
        assert phi(2, z) == pytest.approx(by_quadrature, rel=1e-9)
    assert phi(2, 0.0) == 0.5
    assert phi(3, -np.inf) == 0.0
