"""Where diffusers departs from the papers, and what is done about it: docs/conformance.md."""

import itertools

import diffusers
import numpy as np
import pytest
import torch
from diffusers_peer import run_scheduler
from published_values import SAMPLE, toy

from fastdiff.sampling import Schedule, get_solver, run_table


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral"])
def test_compat_changes_nothing_where_diffusers_is_right(solver):
    """Leading spacing, or counts that divide T, with whole strides and a last time of 0."""
    for steps in (10, 50):
        ours = get_solver(solver).table(Schedule(), steps)
        theirs = get_solver(solver).table(Schedule(), steps, compat="diffusers")
        np.testing.assert_array_equal(ours.update, theirs.update)


def sums(table):
    return np.abs(run_table(table, toy, SAMPLE)[-1]).sum()


@pytest.mark.parametrize(
    ("spacing", "steps", "theirs", "true"),
    [
        ("linspace", 10, 191.253819, 169.464040),
        ("linspace", 13, 193.842655, 176.519836),
        ("trailing", 13, 179.737581, 175.936273),
        ("trailing", 10, 170.034995, 170.034995),
        ("leading", 13, 178.124669, 178.124669),
    ],
)
def test_ddim_steps_to_the_next_time_it_visits(spacing, steps, theirs, true):
    schedule = Schedule(timestep_spacing=spacing)
    ours = get_solver("ddim").table(schedule, steps)
    compat = get_solver("ddim").table(schedule, steps, compat="diffusers")
    assert sums(ours) == pytest.approx(true, abs=1e-6)
    assert sums(compat) == pytest.approx(theirs, abs=1e-6)
    assert set(ours.waived) == set()
    assert set(compat.waived) == (set() if theirs == true else {"levels"})


def test_noise_after_the_last_ddpm_step_is_only_theirs():
    """diffusers decides by t > 0: fixed_large with trailing spacing ends 0.32 off the data."""
    schedule = Schedule(timestep_spacing="trailing", variance_type="fixed_large")
    assert get_solver("ddpm").table(schedule, 10).update[-1, 0, -1] == 0.0
    theirs = get_solver("ddpm").table(schedule, 10, compat="diffusers")
    assert theirs.update[-1, 0, -1] == pytest.approx(0.3209, abs=1e-4)


def test_one_linspace_step_starts_without_noise_only_in_theirs():
    schedule = Schedule(timestep_spacing="linspace")
    assert get_solver("ddim").table(schedule, 1).t.tolist() == [999]
    assert get_solver("ddim").table(schedule, 1, compat="diffusers").t.tolist() == [0]


def test_deviations_of_diffusers_are_still_there():
    """Each claim of docs/conformance.md that the comparisons above do not pin."""
    times = diffusers.DDIMScheduler(timestep_spacing="trailing")
    times.set_timesteps(61)
    assert times.timesteps[-1] == -1
    large_log = diffusers.DDPMScheduler(variance_type="fixed_large_log")
    large_log.set_timesteps(10)
    x = torch.ones(1, 3, 4, 4)
    assert torch.isnan(large_log.step(x, large_log.timesteps[3], x).prev_sample).all()
    # Zero terminal SNR: the stand-in 2^-24 is less noisy than the level before it.
    zero = diffusers.EulerDiscreteScheduler(rescale_betas_zero_snr=True)
    assert zero.alphas_cumprod[-1] > zero.alphas_cumprod[-2]


def test_fixed_large_log_is_fixed_large():
    outcome = [
        get_solver("ddpm", variance_type=f"fixed_{size}{log}").table(Schedule(), 10).update
        for size, log in itertools.product(("small", "large"), ("", "_log"))
    ]
    np.testing.assert_array_equal(outcome[0], outcome[1])
    np.testing.assert_array_equal(outcome[2], outcome[3])


def test_their_learned_variance_is_not_a_logarithm():
    """Improved DDPM learns a log-variance v, std = exp(v / 2); diffusers takes sqrt(v)."""
    rng = np.random.default_rng(5)
    x, m, z = rng.standard_normal((3, 1, 3, 4, 4))
    v = rng.uniform(-3, 0, (1, 3, 4, 4))
    schedule = Schedule(variance_type="learned")
    table = get_solver("ddpm").table(schedule, 1, compat="diffusers")
    assert table.w.tolist() == [0.0]  # t = 0 draws nothing
    table = get_solver("ddpm").table(schedule, timesteps=[500, 0])
    ours = run_table(table, lambda *_: (m, v) if _[1] else m, x, [z, z])[0]
    config = {"variance_type": "learned", "num_train_timesteps": 1000}
    theirs, times, _ = run_scheduler(
        "DDPMScheduler", config, 2, x, [m, m], [z, z], double=True, variance=[np.exp(v)] * 2
    )
    assert times.tolist() == [500, 0]
    np.testing.assert_allclose(ours, theirs[0], rtol=1e-12)
