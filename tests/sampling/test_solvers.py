import math
from dataclasses import FrozenInstanceError, dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling import (
    SPACINGS,
    Schedule,
    Solver,
    get_solver,
    list_solvers,
    run_table,
)
from fastdiff.sampling.schedule import BETA_SCHEDULES, VARIANCE_TYPES
from fastdiff.sampling.solvers.base import REGISTRY

OPTIONS = {
    "ddpm": {"variance_type": st.sampled_from((None, *VARIANCE_TYPES))},
    "ddim": {"eta": st.floats(0, 1), "use_clipped_model_output": st.booleans()},
    "euler": {"clip_sample": st.booleans()},
    "euler_ancestral": {"eta": st.floats(0, 1)},
    "dpmpp_2m": {
        "solver_type": st.sampled_from(("midpoint", "heun")),
        "lower_order_final": st.booleans(),
        "euler_at_final": st.booleans(),
    },
}
OPTIONS |= dict.fromkeys(
    ("dpmpp_2m_sde", "dpmpp_3m", "dpmpp_3m_sde", "dpmpp_1", "dpmpp_1_sde"), OPTIONS["dpmpp_2m"]
)
OPTIONS |= {
    "dpmpp_single": {
        "solver_order": st.integers(1, 3),
        "solver_type": st.sampled_from(("midpoint", "heun")),
        "lower_order_final": st.booleans(),
    },
    "heun": {"s_churn": st.floats(0, 40), "s_noise": st.floats(0.9, 1.1)},
    "deis": {"solver_order": st.integers(1, 3), "lower_order_final": st.booleans()},
    "unipc": {
        "solver_order": st.integers(1, 3),
        "solver_type": st.sampled_from(("bh1", "bh2")),
        "lower_order_final": st.booleans(),
        "disable_corrector": st.lists(st.integers(0, 9), max_size=3),
    },
    "pndm": {"skip_prk_steps": st.booleans()},
    "consistency": {"sigma_data_end": st.floats(0, 0.1)},
    "lcm": {"original_inference_steps": st.integers(1, 60)},
}
for _name in ("ddim_inverse", "kdpm2", "kdpm2_ancestral", "dpmpp_sde"):
    OPTIONS[_name] = {"clip_sample": st.booleans()}
for _name in ("reverse_sde", "probability_flow"):
    OPTIONS[_name] = {"clip_sample": st.booleans()}
TWO_EVALUATIONS = ("heun", "kdpm2", "kdpm2_ancestral", "dpmpp_sde")
VP_PREDICTIONS = ("epsilon", "sample", "v_prediction")


def test_every_solver_is_listed():
    assert list_solvers() == sorted(OPTIONS)
    assert set(list_solvers()) == set(REGISTRY)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_every_table_that_can_be_asked_for_proves_itself_and_packs(data):
    T = data.draw(st.integers(3, 400))
    schedule = Schedule(
        num_train_timesteps=T,
        beta_start=data.draw(st.floats(1e-5, 1e-2)),
        beta_end=data.draw(st.floats(1e-2, 0.05)),
        beta_schedule=data.draw(st.sampled_from(BETA_SCHEDULES)),
        prediction_type=data.draw(st.sampled_from(VP_PREDICTIONS)),
        timestep_spacing=data.draw(st.sampled_from(SPACINGS)),
        clip_sample=data.draw(st.booleans()),
        set_alpha_to_one=data.draw(st.booleans()),
        final_sigmas_type=data.draw(st.sampled_from(("zero", "sigma_min"))),
        rescale_betas_zero_snr=data.draw(st.booleans()),
        **data.draw(st.sampled_from(({}, {"use_karras_sigmas": True}))),
    )
    name = data.draw(st.sampled_from(list_solvers()))
    solver = get_solver(name, **data.draw(st.fixed_dictionaries(OPTIONS[name])))
    compat = data.draw(st.sampled_from((None, "diffusers")))
    explicit = data.draw(st.booleans())
    if explicit:
        times = data.draw(st.lists(st.integers(0, T - 1), min_size=1, max_size=20, unique=True))
        chosen = {"timesteps": sorted(times, reverse=True)}
    else:
        chosen = {"steps": data.draw(st.integers(1, min(T, 60)))}
    try:
        table = solver.table(schedule, **chosen, compat=compat)
    except InvalidArgument as error:  # the refusals there are, each with its reason
        known = (
            "alpha = 0",
            "sigma = 0",
            "zero terminal SNR",
            "must descend",
            "Runge-Kutta start",
            "steps must be a whole number",
            "a sigma spacing runs from",
            "half steps of diffusers do not fit",
            "t must lie in",  # a stride that is not that of the times given
        )
        if not any(reason in str(error) for reason in known):
            raise
        return
    packed = table.pack()
    count = chosen.get("steps", len(chosen.get("timesteps", ())))
    if name in TWO_EVALUATIONS:
        assert 2 * count - 1 <= len(table) <= 2 * count
    elif name != "pndm":
        assert len(table) == count
    assert packed.history_slots <= 4
    assert np.all(np.isfinite(packed.rows["x"]))
    if table.sigma_to[-1] == 0 and not (name == "ddpm" and compat):
        assert packed.rows["x"][-1, 7] == 0


INEXACT = ("ddim_inverse", "lcm", "reverse_sde", "probability_flow")
"""Solvers that do not end on the data, or that are not exact even for a point."""


@pytest.mark.parametrize("solver", sorted({*list_solvers()} - {*INEXACT}))
@pytest.mark.parametrize("prediction_type", VP_PREDICTIONS)
def test_a_perfect_network_recovers_its_data(solver, prediction_type):
    """For a point X the true denoiser answers X, and every solver must end there."""
    X = np.array([0.8, -0.3, 0.1])
    schedule = Schedule(prediction_type=prediction_type)
    table = get_solver(solver).table(schedule, 17)
    rng = np.random.default_rng(2)
    x = table.alpha[0] * X + table.sigma[0] * rng.standard_normal(3)
    rows = iter(range(len(table)))

    def network(x_in, _):
        i = next(rows)
        alpha, sigma = table.alpha[i] * table.c_in[i], table.sigma[i] * table.c_in[i]
        N = (x_in - alpha * X) / sigma
        return {"epsilon": N, "sample": X, "v_prediction": alpha * N - sigma * X}[prediction_type]

    out = run_table(table, network, x, rng.standard_normal((len(table), 3)))
    np.testing.assert_allclose(out[-1], X, rtol=1e-9)


def test_ancestral_steps_are_one_step_under_four_names():
    schedule = Schedule(clip_sample=False)
    ddpm, ddim = (get_solver(*s).table(schedule, 20) for s in (("ddpm",), ("ddim",)))
    noisy = get_solver("ddim", eta=1.0).table(schedule, 20)
    np.testing.assert_allclose(ddpm.update, noisy.update, rtol=1e-9, atol=1e-12)
    # Euler's state is x / alpha.
    for euler, other in (("euler", ddim), ("euler_ancestral", noisy)):
        table = get_solver(euler).table(schedule, 20)
        scaled = np.array(table.update[:, 0]) * other.alpha_to[:, None]
        scaled[:, 0] /= other.alpha
        np.testing.assert_allclose(scaled, other.update[:, 0], rtol=1e-9, atol=1e-12)


@given(bound=st.floats(0.1, 3.0), eta=st.floats(0, 1))
def test_clipping_keeps_the_networks_noise_unless_asked(bound, eta):
    """DDIM, eq. 12 written out, with an estimate far outside the clip."""
    schedule = Schedule(clip_sample_range=bound)
    x, m = np.array([4.0, -0.2]), np.array([-3.0, 0.4])
    alpha, sigma = schedule.level(500)
    alpha_to, sigma_to = schedule.level(250)
    std = eta * sigma_to / sigma * math.sqrt(1 - (alpha / alpha_to) ** 2)
    D = np.clip((x - sigma * m) / alpha, -bound, bound)
    for rederive, noise in ((False, m), (True, (x - alpha * D) / sigma)):
        solver = get_solver("ddim", eta=eta, use_clipped_model_output=rederive)
        table = solver.table(schedule, timesteps=[500, 250])
        want = alpha_to * D + math.sqrt(sigma_to**2 - std**2) * noise + std * 1.5
        got = run_table(table, lambda *_: m, x, np.full((2, 2), 1.5))[0]
        np.testing.assert_allclose(got, want, rtol=1e-10)


def test_clipping_follows_the_schedule_where_the_schedule_rules():
    on, off = Schedule(clip_sample_range=2.0), Schedule(clip_sample=False)
    for solver in ("ddpm", "ddim"):
        assert set(get_solver(solver).table(on, 3).clip) == {2.0}
        assert set(get_solver(solver).table(off, 3).clip) == {np.inf}
        assert set(get_solver(solver, clip_sample=False).table(on, 3).clip) == {np.inf}
        chosen = get_solver(solver, clip_sample=True, clip_sample_range=1.5)
        assert set(chosen.table(off, 3).clip) == {1.5}
    for solver in ("euler", "euler_ancestral", "dpmpp_2m", "dpmpp_2m_sde"):
        assert set(get_solver(solver).table(on, 3).clip) == {np.inf}
        assert set(get_solver(solver, clip_sample=True).table(on, 3).clip) == {2.0}


def test_variance_type_follows_the_schedule():
    large = Schedule(variance_type="fixed_large")
    beta = 1 - large.alphas_cumprod[666] / large.alphas_cumprod[333]
    assert get_solver("ddpm").table(large, 3).update[0, 0, 3] ** 2 == pytest.approx(beta)
    small = get_solver("ddpm", variance_type="fixed_small").table(large, 3)
    between = (1 - large.alphas_cumprod[333]) / (1 - large.alphas_cumprod[666]) * beta
    assert small.update[0, 0, 3] ** 2 == pytest.approx(between)
    # Improved DDPM, eq. 15, with the betas of the steps taken: v = 1 gives beta, v = -1 beta~.
    learned = get_solver("ddpm", variance_type="learned_range").table(large, 3)
    s, w = learned.update[0, 0, 3], learned.w[0]
    assert (s * math.exp(w)) ** 2 == pytest.approx(beta)
    assert (s * math.exp(-w)) ** 2 == pytest.approx(between)


def test_orders_at_the_ends():
    leaving = Schedule(final_sigmas_type="sigma_min")

    def orders(steps, schedule=leaving, **options):
        return (
            get_solver("dpmpp_2m", **options).table(schedule, steps).order[[0, 1, -2, -1]].tolist()
        )

    assert orders(14) == [1, 2, 2, 1]
    assert orders(15) == [1, 2, 2, 2]
    assert orders(14, lower_order_final=False) == [1, 2, 2, 2]
    assert orders(30, euler_at_final=True) == [1, 2, 2, 1]
    assert orders(30, Schedule()) == [1, 2, 2, 1]


def test_bad_names_and_options_are_refused_with_the_known_ones():
    with pytest.raises(UnknownName, match="'plms'; known: consistency, ddim, ddim_inverse, "):
        get_solver("plms")
    with pytest.raises(UnknownName):
        get_solver(None)
    with pytest.raises(InvalidArgument, match="no option 'et'; did you mean 'eta'"):
        get_solver("ddim", et=1)
    for name, options in (
        ("ddim", {"eta": 1.5}),
        ("ddim", {"eta": True}),
        ("ddim", {"eta": float("nan")}),
        ("ddim", {"clip_sample_range": -1}),
        ("ddim", {"clip_sample": "no"}),
        ("euler_ancestral", {"eta": "1"}),
        ("dpmpp_2m", {"solver_type": "bh2"}),
        ("dpmpp_2m", {"euler_at_final": 1}),
        ("ddpm", {"variance_type": "tiny"}),
        ("heun", {"s_churn": -1}),
        ("deis", {"solver_order": 4}),
        ("dpmpp_single", {"solver_order": 0}),
        ("dpmpp_single", {"solver_type": "bh2"}),
        ("unipc", {"solver_type": "bh3"}),
        ("unipc", {"disable_corrector": 2}),
        ("unipc", {"disable_corrector": [-1]}),
        ("lcm", {"original_inference_steps": 0}),
    ):
        with pytest.raises(InvalidArgument, match=next(iter(options))):
            get_solver(name, **options)


def test_scalars_of_numpy_and_torch_are_options_like_python_numbers():
    plain = get_solver("ddim", eta=0.5, use_clipped_model_output=True)
    for eta in (np.float32(0.5), np.array(0.5), torch.tensor(0.5, dtype=torch.bfloat16)):
        other = get_solver("ddim", eta=eta, use_clipped_model_output=np.bool_(True))
        assert (other, hash(other)) == (plain, hash(plain))
    assert get_solver("unipc", solver_order=torch.tensor(3)) == get_solver("unipc", solver_order=3)
    table = plain.table(Schedule(), torch.tensor(5))
    np.testing.assert_array_equal(table.t, plain.table(Schedule(), np.int64(5)).t)


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        ([5.0, 1.0, 0.0], "the last one is 0.* leave it out"),
        ([5.0, 5.0, 1.0], "must descend, got 5 then 5"),
        ([5.0, -1.0], r"must lie in 0\.\.inf, got -1$"),
    ],
)
def test_levels_that_cannot_be_visited_are_refused_in_their_own_words(sigmas, message):
    with pytest.raises(InvalidArgument, match=message) as caught:
        get_solver("euler").table(Schedule(), sigmas=sigmas)
    assert "steps_offset" not in str(caught.value)


def test_a_solver_is_changed_by_copy():
    ddim = get_solver("ddim", eta=0.5)
    assert get_solver(ddim) == ddim
    assert get_solver(ddim, eta=0.25).eta == 0.25
    with pytest.raises(FrozenInstanceError):
        ddim.eta = 1.0
    assert len({ddim, get_solver("ddim", eta=0.5), get_solver("ddim")}) == 2


@pytest.mark.parametrize("steps", [0, -3, 1001, 1.0, "5"])
def test_bad_step_counts_are_refused(steps):
    with pytest.raises(InvalidArgument, match="whole number from 1 to 1000"):
        get_solver("ddim").table(Schedule(), steps)


def test_steps_and_times_must_be_given_and_agree():
    ddim = get_solver("ddim")
    with pytest.raises(InvalidArgument, match="give steps"):
        ddim.table(Schedule())
    with pytest.raises(InvalidArgument, match="steps=3 but 2"):
        ddim.table(Schedule(), 3, [500, 0])
    with pytest.raises(UnknownName, match="'comfy'; known: diffusers"):
        ddim.table(Schedule(), 3, compat="comfy")
    assert ddim.table(Schedule(), 2, [500, 7]).t.tolist() == [500, 7]


def test_zero_terminal_snr_is_refused_where_it_cannot_be_computed():
    zero = Schedule(rescale_betas_zero_snr=True, timestep_spacing="trailing")
    for solver in ("ddim", "ddpm", "dpmpp_2m"):
        with pytest.raises(InvalidArgument, match=r"zero terminal SNR.*v_prediction"):
            get_solver(solver).table(zero, 5)
    v = Schedule(**{**zero.to_config(), "prediction_type": "v_prediction"})
    for solver in ("euler", "pndm"):
        with pytest.raises(InvalidArgument, match="use 'ddim'"):
            get_solver(solver).table(v, 5)
    for solver in ("ddim", "ddpm", "dpmpp_2m", "dpmpp_2m_sde"):
        table = get_solver(solver).table(v, 5)
        assert (table.alpha[0], table.p[0], table.q[0]) == (0.0, 0.0, -1.0)


def test_defining_a_solver_registers_it():
    @dataclass(frozen=True)
    class Halves(Solver, name="halves"):
        def _build(self, schedule, path, compat):
            return get_solver("ddim").table(schedule, timesteps=path.t[::2])

    try:
        assert "halves" in list_solvers()
        assert len(get_solver("halves").table(Schedule(), 9)) == 5
    finally:
        del REGISTRY["halves"]
