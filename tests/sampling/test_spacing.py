"""Sigma spacings, and the paths they make."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta

from fastdiff.errors import InvalidArgument
from fastdiff.sampling import Schedule, get_solver
from fastdiff.sampling.spacing import (
    beta_quantile,
    beta_sigmas,
    exponential_sigmas,
    karras_sigmas,
)


def test_karras_sigmas_are_even_in_their_root():
    """Karras et al., eq. 5, by its definition."""
    roots = karras_sigmas(9, 80.0, 0.002, rho=5.0) ** 0.2
    np.testing.assert_allclose(np.diff(roots), (0.002**0.2 - 80.0**0.2) / 8, rtol=1e-12)


@settings(max_examples=60, deadline=None)
@given(u=st.floats(1e-6, 1 - 1e-6), a=st.floats(0.3, 6), b=st.floats(0.3, 6))
def test_beta_quantile_is_that_of_scipy(u, a, b):
    got, want = beta_quantile(u, a, b), beta.ppf(u, a, b)
    assert got == pytest.approx(want, rel=1e-9, abs=1e-12)
    assert (beta_quantile(0.0, a, b), beta_quantile(1.0, a, b)) == (0.0, 1.0)


@pytest.mark.parametrize("spacing", [karras_sigmas, exponential_sigmas, beta_sigmas])
def test_spacings_run_from_the_highest_to_the_lowest(spacing):
    sigmas = spacing(17, 14.6, 0.03)
    assert sigmas[[0, -1]] == pytest.approx([14.6, 0.03], rel=1e-12)
    assert np.all(np.diff(sigmas) < 0)
    assert spacing(1, 14.6, 0.03) == pytest.approx([14.6])


def test_levels_are_the_sigmas_that_are_given():
    vp = Schedule(prediction_type="sample")
    table = get_solver("dpmpp_2m").table(vp, sigmas=[10.0, 2.5, 0.4])
    np.testing.assert_allclose(table.sigma / table.alpha, [10.0, 2.5, 0.4], rtol=1e-14)
    np.testing.assert_allclose(np.hypot(table.alpha, table.sigma), 1.0, rtol=1e-14)
    # The time of a training level is its own.
    table = get_solver("euler").table(vp, sigmas=vp.ratios[[900, 300]].tolist())
    np.testing.assert_allclose(table.t, [900, 300], rtol=1e-12)


def test_denoisers_of_sigma_take_x_and_sigma_themselves():
    """Consistency models, Algorithm 1, for a network f(x, sigma) that predicts the data."""
    schedule = Schedule(process="ve", prediction_type="sample")
    table = get_solver("consistency").table(schedule, sigmas=[80.0, 24.4, 5.84])
    assert table.t.tolist() == [80.0, 24.4, 5.84]
    assert table.c_in.tolist() == [1.0, 1.0, 1.0]
    same = get_solver("consistency").table(schedule, timesteps=[80.0, 24.4, 5.84])
    np.testing.assert_array_equal(same.update, table.update)
    np.testing.assert_array_equal(
        table.update[:, 0], [[0, 1, 0, 24.4], [0, 1, 0, 5.84], [0, 1, 0, 0]]
    )
    paper = get_solver("consistency", sigma_data_end=0.002).table(schedule, sigmas=[80.0, 5.84])
    assert paper.update[0, 0, 3] == pytest.approx(np.sqrt(5.84**2 - 0.002**2), rel=1e-15)
    assert set(paper.waived) == {"variance"}


def test_bad_sigmas_are_refused():
    euler = get_solver("euler")
    for process, sigmas, message in (
        ("vp", [1.0, 2.0], "descend"),
        ("vp", [1.0, 0.0], "leave it out"),
        ("ve", [], "non-empty"),
        ("flow", [1.5, 0.5], r"must lie in .*\.\.1, got 1.5"),
    ):
        schedule = Schedule(process=process, prediction_type="sample")
        with pytest.raises(InvalidArgument, match=message):
            euler.table(schedule, sigmas=sigmas)
    with pytest.raises(InvalidArgument, match="timesteps or sigmas, not both"):
        euler.table(Schedule(), timesteps=[5], sigmas=[0.5])
    zero = Schedule(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", use_karras_sigmas=True
    )
    with pytest.raises(InvalidArgument, match="finite sigma_max"):
        get_solver("dpmpp_2m").table(zero, 5)


def test_times_of_too_little_signal_are_left_out():
    """lambda_min_clipped: the noisiest time that is left has at least this log-SNR."""
    schedule = Schedule(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-3.0)
    log_snr = -np.log(schedule.ratios)
    T = schedule.spaced_range
    assert log_snr[T - 1] >= -3.0 > log_snr[T]
    for spacing in ("linspace", "trailing"):
        kept = replace(schedule, timestep_spacing=spacing)
        assert get_solver("ddim").table(kept, 10).t[0] == T - 1
    with pytest.raises(InvalidArgument, match="leaves no time; the log-SNR"):
        replace(schedule, lambda_min_clipped=40.0)


def test_lu_spacing_is_even_in_log_sigma():
    config = {"_class_name": "DPMSolverMultistepScheduler", "use_lu_lambdas": True}
    assert Schedule.from_config(config).use_exponential_sigmas
    assert not Schedule.from_config({**config, "use_karras_sigmas": True}).use_exponential_sigmas
    infinite = {**config, "lambda_min_clipped": -np.inf}
    assert Schedule.from_config(infinite).lambda_min_clipped is None
    ddim = {"_class_name": "DDIMScheduler", "lambda_min_clipped": -5.1}  # not a key of it
    assert Schedule.from_config(ddim).lambda_min_clipped is None
