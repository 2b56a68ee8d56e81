"""Every solver against diffusers: same model outputs, same noise, whole trajectories."""

import itertools

import diffusers
import numpy as np
import pytest
import torch
from conformance import compare
from diffusers_peer import run_scheduler
from solver_variants import SIGMA_SPACINGS, variants

from fastdiff.sampling import Schedule, get_solver, run_table, solver_from_config

VARIANTS = {variant.label: variant for variant in variants()}

# diffusers as shipped rounds alphas_cumprod to float32, where 1 - alphas_cumprod near the data
# keeps three digits. On those rounded levels every case agrees to 1e-5, on the true ones to this;
# the figures by case are in docs/conformance.md.
SHIPPED_BOUND = 5e-5

CANCELLING = ("deis", "dpmpp_3m", "dpmpp_3m_sde", "unipc")
"""Where diffusers' own float32 arithmetic loses more than these bounds (docs/conformance.md)."""


@pytest.mark.peer
@pytest.mark.parametrize("variant", list(variants()), ids=lambda variant: variant.label)
def test_trajectories_are_those_of_diffusers(variant):
    for prediction_type, spacing, steps in itertools.product(
        variant.prediction_types, variant.spacings, (1, 13)
    ):
        if variant.takes(steps) and (spacing not in SIGMA_SPACINGS or steps == 13):
            found = compare(variant, prediction_type, spacing, steps)
            case = (prediction_type, spacing, steps)
            assert found.table < 1e-10, case
            assert found.packed < 1e-5, case
            if variant.solver not in CANCELLING:
                assert np.isnan(found.levels) or found.levels < 1e-5, case
                assert found.shipped < SHIPPED_BOUND, case


@pytest.mark.peer
@pytest.mark.parametrize("label", sorted({v.solver for v in variants()} - {"consistency", "lcm"}))
def test_networks_that_look_at_their_input(label):
    """The published toy network, whose output depends on x and so compounds every difference."""
    variant = next(v for v in VARIANTS.values() if v.solver == label)
    for prediction_type in variant.prediction_types:
        spacing = variant.spacings[0]
        found = compare(variant, prediction_type, spacing, 13, outputs=lambda x, t, _: toy(x, t))
        assert found.table < 1e-10
        assert found.packed < 2e-5


@pytest.mark.peer
@pytest.mark.parametrize(
    ("spacing", "settings"),
    [
        ("trailing", {"rescale_betas_zero_snr": True}),
        ("leading", {"beta_schedule": "squaredcos_cap_v2"}),
        (
            "linspace",
            {"trained_betas": np.geomspace(1e-4, 0.03, 250).tolist(), "num_train_timesteps": 250},
        ),
        ("leading", {"num_train_timesteps": 77, "beta_start": 1e-3, "beta_end": 0.2}),
    ],
)
def test_other_schedules(spacing, settings):
    chosen = {variant.solver: variant for variant in VARIANTS.values()}
    chosen = {name: chosen[name] for name in ("ddpm", "ddim", "euler_ancestral", "dpmpp_1")}
    for variant, prediction_type in itertools.product(chosen.values(), ("sample", "v_prediction")):
        if prediction_type in variant.prediction_types:
            found = compare(variant, prediction_type, spacing, 7, **settings)
            assert found.table < 1e-10, (variant.label, prediction_type)
            assert found.packed < 1e-5, (variant.label, prediction_type)


@pytest.mark.parametrize("solver", ["ddpm", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "euler_ancestral"])
def test_compat_changes_nothing_where_diffusers_is_right(solver):
    """Leading spacing, or counts that divide T, with whole strides and a last time of 0."""
    for steps in (10, 50):
        ours = get_solver(solver).table(Schedule(), steps)
        theirs = get_solver(solver).table(Schedule(), steps, compat="diffusers")
        np.testing.assert_array_equal(ours.update, theirs.update)


SAMPLE = np.arange(768).reshape(3, 8, 8, 4).transpose(3, 0, 1, 2) / 768
NOISE = SAMPLE[..., ::-1]


def toy(x, t):
    return x * t / (t + 1)


def sums(table, x=SAMPLE):
    out = np.abs(run_table(table, toy, x)[-1])
    return out.sum(), out.mean()


@pytest.mark.parametrize(
    ("settings", "total", "mean"),
    [
        ({}, 172.0067, 0.223967),
        ({"prediction_type": "v_prediction"}, 52.5302, 0.0684),
        ({"beta_start": 0.01}, 149.8295, 0.1951),
        ({"beta_start": 0.01, "set_alpha_to_one": False}, 149.0784, 0.1941),
    ],
)
def test_published_sums_of_ddim(settings, total, mean):
    got = sums(get_solver("ddim").table(Schedule(**settings), 10))
    assert got == (pytest.approx(total, abs=1e-2), pytest.approx(mean, abs=1e-3))


def test_published_sum_of_ddim_from_the_middle():
    schedule, solver = Schedule(), get_solver("ddim")
    times = solver.table(schedule, 10).t[8:]
    start = schedule.add_noise(SAMPLE, NOISE, times[0])
    got = sums(solver.table(schedule, timesteps=times), start)
    assert got == (pytest.approx(354.5418, abs=1e-2), pytest.approx(0.4616, abs=1e-3))


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
    assert sums(ours)[0] == pytest.approx(true, abs=1e-6)
    assert sums(compat)[0] == pytest.approx(theirs, abs=1e-6)
    assert set(ours.waived) == set()
    assert set(compat.waived) == (set() if theirs == true else {"levels"})


LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def published(name, x=SAMPLE, *, rescaled=False, raw=False, steps=10, **config):
    """Sum and mean of a configuration's output, by its compat table.

    rescaled: the published loop steps the scaled input, not x. raw: its network sees x itself.
    """
    config = {"_class_name": name, **({} if name.startswith("EDM") else LINEAR), **config}
    solver, schedule = solver_from_config(config), Schedule.from_config(config)
    table = solver.table(schedule, steps, compat="diffusers")
    state = np.zeros((table.history + 1, *x.shape))
    state[0] = x if raw else x * table.init_noise_sigma
    for i, update in enumerate(table.update):
        x_in = table.c_in[i] * state[0]
        m = toy(state[0] if raw else x_in, table.t[i])
        if rescaled:
            state[0] = x_in
        D = table.p[i] * state[0] + table.q[i] * m
        D = np.clip(D, -table.clip[i], table.clip[i])
        state = np.tensordot(update, np.stack([*state, D, m, 0 * m]), 1)
    return np.abs(state[0]).sum(), np.abs(state[0]).mean()


EULER, HEUN, KDPM2 = (f"{name}DiscreteScheduler" for name in ("Euler", "Heun", "KDPM2"))
KARRAS, V = {"use_karras_sigmas": True}, {"prediction_type": "v_prediction"}


@pytest.mark.parametrize(
    ("name", "config", "total", "mean"),
    [
        (EULER, {}, 10.0807, 0.0131),
        (EULER, V, 0.0002, 2.2676e-06),
        (EULER, KARRAS, 124.52299, 0.16214),
        (HEUN, {}, 0.1233, 0.0002),
        (HEUN, V, 4.6934e-07, 6.1112e-10),
        (HEUN, KARRAS, 0.00015, 1.9869e-07),
        (KDPM2, {}, 20.4125, 0.0266),
        (KDPM2, V, 4.6934e-07, 6.1112e-10),
    ],
)
def test_published_sums_of_k_diffusion(name, config, total, mean):
    got = published(name, rescaled=True, num_train_timesteps=1100, **config)
    assert got == (pytest.approx(total, abs=1e-2), pytest.approx(mean, abs=1e-3))


@pytest.mark.parametrize(
    ("config", "total", "mean"),
    [
        ({}, 198.1318, 0.2580),
        (V, 67.3986, 0.0878),
        ({"set_alpha_to_one": True, "beta_start": 0.01}, 230.0399, 0.2995),
        ({"set_alpha_to_one": False, "beta_start": 0.01}, 186.9482, 0.2434),
    ],
)
def test_published_sums_of_pndm(config, total, mean):
    got = published("PNDMScheduler", **config)
    assert got == (pytest.approx(total, abs=1e-2), pytest.approx(mean, abs=1e-3))


@pytest.mark.parametrize(
    ("config", "total", "mean"),
    [
        ({}, 671.6816, 0.8746),
        (V, 1394.2185, 1.8154),
        ({"set_alpha_to_one": True, "beta_start": 0.01}, 539.9622, 0.7031),
        ({"set_alpha_to_one": False, "beta_start": 0.01}, 542.6722, 0.7066),
    ],
)
def test_published_sums_of_ddim_inversion(config, total, mean):
    got = published("DDIMInverseScheduler", **config)
    assert got == (pytest.approx(total, abs=1e-2), pytest.approx(mean, abs=1e-3))


@pytest.mark.parametrize(
    ("name", "config", "mean"),
    [
        ("UniPCMultistepScheduler", {}, 0.2464),
        ("UniPCMultistepScheduler", KARRAS, 0.2925),
        ("UniPCMultistepScheduler", V, 0.1014),
        ("UniPCMultistepScheduler", {**KARRAS, **V}, 0.1966),
        ("DEISMultistepScheduler", {}, 0.23916),
        ("DEISMultistepScheduler", V, 0.091),
    ],
)
def test_published_means_of_multistep_solvers(name, config, mean):
    got = published(name, **{"final_sigmas_type": "sigma_min", **config})
    assert got[1] == pytest.approx(mean, abs=1e-3)


def test_published_sums_of_edm():
    total, mean = published("EDMEulerScheduler", num_train_timesteps=256)
    assert (total, mean) == (pytest.approx(34.1855, abs=1e-3), pytest.approx(0.044, abs=1e-3))
    base = {"lower_order_final": False, "final_sigmas_type": "sigma_min", "raw": True}
    for config, mean in (({}, 0.0001), (V, 0.0092)):
        got = published("EDMDPMSolverMultistepScheduler", **base, **config)
        assert got[1] == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize(
    ("prediction_type", "mean"), [("epsilon", 0.3301), ("v_prediction", 0.2251)]
)
def test_published_means_of_dpm_solver(prediction_type, mean):
    schedule = Schedule(
        prediction_type=prediction_type,
        timestep_spacing="linspace",
        final_sigmas_type="sigma_min",
    )
    table = get_solver("dpmpp_2m", lower_order_final=False).table(schedule, 10)
    assert sums(table)[1] == pytest.approx(mean, abs=1e-3)


@pytest.mark.parametrize(
    ("times", "variance"),
    [((420, 400), 0.14771), ((980, 960), 0.32460), ((487, 486), 0.00979), ((999, 998), 0.02)],
)
def test_published_variances(times, variance):
    for solver in (get_solver("ddpm"), get_solver("ddim", eta=1.0)):
        table = solver.table(Schedule(), timesteps=times)
        assert table.update[0, 0, -1] ** 2 == pytest.approx(variance, abs=1e-5)
        assert table.update[1, 0, -1] == 0.0


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
