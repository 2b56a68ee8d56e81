"""Heun with churn against Algorithm 2 of EDM, written out as in the paper."""

import math

import numpy as np
import pytest

from fastdiff.errors import InvalidArgument
from fastdiff.sampling import Schedule, get_solver, run_table

DATA = 0.5


def network(x_in, t):
    """A smooth F(c_in x, c_noise)."""
    return np.tanh(1.1 * x_in[..., ::-1] + math.cos(t)) + 0.2 * np.sin(x_in)


def denoise(x, sigma):
    """EDM, eq. 7 with Table 1."""
    total = sigma**2 + DATA**2
    F = network(x / math.sqrt(total), math.log(sigma) / 4)
    return DATA**2 / total * x + sigma * DATA / math.sqrt(total) * F


def algorithm_2(sigmas, x, noise, churn, low, high, s_noise):
    """Stochastic sampling; noise[i] is drawn in step i."""
    steps = len(sigmas)
    for i, (sigma, after) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        gamma = min(churn / steps, math.sqrt(2) - 1) if low <= sigma <= high else 0.0
        hat = sigma * (1 + gamma)
        x_hat = x + math.sqrt(hat**2 - sigma**2) * s_noise * noise[i]
        d = (x_hat - denoise(x_hat, hat)) / hat
        x = x_hat + (after - hat) * d
        if after > 0:
            d_after = (x - denoise(x, after)) / after
            x = x_hat + (after - hat) * (d + d_after) / 2
    return x


@pytest.mark.parametrize("steps", [1, 2, 5, 18])
@pytest.mark.parametrize("churn", [0.0, 4.0, 40.0])
def test_churn_is_algorithm_2(steps, churn):
    schedule = Schedule(process="edm", prediction_type="edm", sigma_data=DATA)
    solver = get_solver("heun", s_churn=churn, s_tmin=0.05, s_tmax=50.0, s_noise=1.003)
    table = solver.table(schedule, steps)
    rng = np.random.default_rng(steps)
    noise, x = rng.standard_normal((steps, 3, 7)), 80 * rng.standard_normal((3, 7))
    sigmas = get_solver("euler").table(schedule, steps).sigma
    want = algorithm_2(sigmas, x, noise, churn, 0.05, 50.0, 1.003)
    # A step's noise belongs to the row that ends the step before.
    rows = np.zeros((len(table), 3, 7))
    rows[1 : 2 * steps - 1 : 2] = noise[1:]
    np.testing.assert_allclose(run_table(table, network, x, rows)[-1], want, rtol=1e-11, atol=1e-13)


def test_churn_of_the_first_step_is_initial_noise():
    schedule = Schedule(process="edm", prediction_type="edm")
    table = get_solver("heun", s_churn=100.0).table(schedule, 6)
    assert table.sigma[0] == pytest.approx(80 * math.sqrt(2), rel=1e-12)
    assert table.init_noise_sigma == pytest.approx(math.hypot(0.5, 80 * math.sqrt(2)), rel=1e-12)
    assert table.t[0] == pytest.approx(math.log(80 * math.sqrt(2)) / 4, rel=1e-12)


def test_flow_has_no_churn():
    schedule = Schedule(process="flow", prediction_type="flow_prediction")
    with pytest.raises(InvalidArgument, match="leave s_churn at 0"):
        get_solver("heun", s_churn=1.0).table(schedule, 6)
