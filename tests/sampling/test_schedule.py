import json
import math

import diffusers
import numpy as np
import pytest
import torch
from diffusers_peer import Widened
from hypothesis import given
from hypothesis import strategies as st

from fastdiff.errors import InvalidArgument, InvalidShape, UnknownName
from fastdiff.sampling import Schedule, get_solver, solver_from_config
from fastdiff.sampling.config import MAX_CONFIG_BYTES
from fastdiff.sampling.schedule import BETA_SCHEDULES


@pytest.mark.parametrize("zero_snr", [False, True])
@pytest.mark.parametrize("beta_schedule", BETA_SCHEDULES)
def test_levels_are_those_of_diffusers_in_double(beta_schedule, zero_snr, monkeypatch):
    import diffusers.schedulers.scheduling_ddpm as module

    monkeypatch.setattr(module, "torch", Widened(torch))
    torch.set_default_dtype(torch.float64)
    try:
        config = {"beta_schedule": beta_schedule, "rescale_betas_zero_snr": zero_snr}
        peer = module.DDPMScheduler(**config)
    finally:
        torch.set_default_dtype(torch.float32)
    schedule = Schedule(**config)
    np.testing.assert_allclose(schedule.alphas_cumprod, peer.alphas_cumprod, rtol=1e-9, atol=1e-15)
    np.testing.assert_allclose(schedule.betas, peer.betas, rtol=1e-9, atol=1e-12)
    assert schedule.alphas_cumprod.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        schedule.betas[0] = 0.5


def test_zero_terminal_snr_keeps_the_first_level_and_ends_in_pure_noise():
    plain, zero = Schedule(), Schedule(rescale_betas_zero_snr=True)
    assert zero.alphas_cumprod[0] == pytest.approx(plain.alphas_cumprod[0], rel=1e-15)
    assert zero.level(999) == (0.0, 1.0)
    with pytest.raises(InvalidArgument, match="between 998 and 999"):
        zero.level(998.5)


def test_trained_betas_that_end_at_zero_terminal_snr_stay_as_they_are():
    betas = [0.1, 0.2, 1.0]
    schedule = Schedule(num_train_timesteps=3, trained_betas=betas, rescale_betas_zero_snr=True)
    np.testing.assert_allclose(schedule.alphas_cumprod, [0.9, 0.72, 0.0], rtol=1e-15)
    np.testing.assert_allclose(schedule.betas, betas, rtol=1e-14)


def test_scalars_of_numpy_and_torch_are_settings_like_python_numbers():
    plain = Schedule(num_train_timesteps=400, beta_end=0.0125, clip_sample=False, steps_offset=1)
    other = Schedule(
        num_train_timesteps=torch.tensor(400),
        beta_end=torch.tensor(0.0125, dtype=torch.float64),
        clip_sample=np.bool_(False),
        steps_offset=np.uint8(1),
    )
    assert json.dumps(other.to_config()) == json.dumps(plain.to_config())
    assert hash(other) == hash(plain)


def test_level_between_times_is_linear_in_the_ratio():
    schedule = Schedule(num_train_timesteps=10)
    ratios = np.sqrt(1 / schedule.alphas_cumprod - 1)
    alpha, sigma = schedule.level(np.array([[3.0, 3.25], [9.0, 0.0]]))
    want = [[ratios[3], 0.75 * ratios[3] + 0.25 * ratios[4]], [ratios[9], ratios[0]]]
    np.testing.assert_allclose(sigma / alpha, want, rtol=1e-12)
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
    assert schedule.level(3) == (alpha[0, 0], sigma[0, 0])
    for t in (-0.1, 9.5, float("nan")):
        with pytest.raises(InvalidArgument, match=r"0\.\.9"):
            schedule.level(t)


def test_add_noise_is_the_forward_process_for_every_row():
    schedule = Schedule()
    rng = np.random.default_rng(0)
    x0, noise = rng.standard_normal((2, 3, 2, 5)).astype(np.float32)
    times = np.array([0, 500, 999])
    got = schedule.add_noise(x0, noise, times)
    peer = diffusers.DDPMScheduler().add_noise(*map(torch.from_numpy, (x0, noise, times)))
    np.testing.assert_allclose(got, peer.numpy(), rtol=2e-5, atol=1e-6)
    assert got.dtype == np.float32
    tensors = schedule.add_noise(*map(torch.from_numpy, (x0, noise, times)))
    np.testing.assert_allclose(tensors.numpy(), got, rtol=1e-6, atol=1e-7)
    assert tensors.dtype == torch.float32
    ab = schedule.alphas_cumprod[500]
    one = schedule.add_noise(x0, noise, 500)
    np.testing.assert_allclose(one, math.sqrt(ab) * x0 + math.sqrt(1 - ab) * noise, rtol=1e-6)


def test_add_noise_refuses_shapes_that_do_not_fit():
    x0 = np.zeros((3, 2))
    with pytest.raises(InvalidShape, match=r"\(3, 2\), got \(2, 2\)"):
        Schedule().add_noise(x0, np.zeros((2, 2)), 5)
    with pytest.raises(InvalidShape, match="each of the 3 rows"):
        Schedule().add_noise(x0, x0, [1, 2])
    with pytest.raises(InvalidArgument, match=r"0\.\.999"):
        Schedule().add_noise(x0, x0, [1, 2, 1000])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"beta_schedule": "cosine"}, UnknownName, "'cosine'; known: linear"),
        ({"prediction_type": "flow"}, UnknownName, "known: edm, epsilon, flow_prediction"),
        ({"num_train_timesteps": 0}, InvalidArgument, "from 1 to 1000000, got 0"),
        ({"num_train_timesteps": 10**12}, InvalidArgument, "from 1 to 1000000, got 10000"),
        ({"num_train_timesteps": 10.5}, InvalidArgument, "whole number"),
        ({"num_train_timesteps": True}, InvalidArgument, "whole number"),
        ({"steps_offset": -1}, InvalidArgument, "from 0 to 1000000, got -1"),
        ({"beta_start": -1e-4}, InvalidArgument, "positive finite"),
        ({"beta_end": "0.02"}, InvalidArgument, "positive finite"),
        ({"sample_max_value": 10**400}, InvalidArgument, "positive finite"),
        ({"beta_end": 1.5}, InvalidArgument, "strictly decreasing"),
        ({"beta_start": 0.9, "beta_end": 0.9}, InvalidArgument, "strictly decreasing"),
        ({"clip_sample": "yes"}, InvalidArgument, "bool, got 'yes'"),
        ({"clip_sample_range": float("inf")}, InvalidArgument, "positive finite"),
        ({"trained_betas": [0.1, 0.2]}, InvalidArgument, "2 values, num_train_timesteps is 1000"),
        (
            {"use_karras_sigmas": True, "use_beta_sigmas": True},
            InvalidArgument,
            "both True; choose one",
        ),
        ({"prediction_type": "edm"}, InvalidArgument, "belongs to process 'edm'"),
        ({"process": "flow", "sigma_max": 80.0}, InvalidArgument, "at most 1, got 80"),
        ({"process": "vpe"}, UnknownName, "'vpe'; known: edm, flow, ve, vp"),
        ({"shift": 0.0}, InvalidArgument, "positive finite"),
        ({"trained_betas": 3}, InvalidArgument, "sequence of numbers"),
        ({"num_train_timesteps": 1, "rescale_betas_zero_snr": True}, InvalidArgument, "decreasing"),
        (
            {"trained_betas": [0.1, 0.2, 1.0], "num_train_timesteps": 3},
            InvalidArgument,
            "zero terminal SNR; say rescale_betas_zero_snr=True",
        ),
        (
            {
                "trained_betas": [0.1, 1.5],
                "num_train_timesteps": 2,
                "rescale_betas_zero_snr": True,
            },
            InvalidArgument,
            "strictly decreasing",
        ),
    ],
)
def test_bad_settings_are_refused(settings, error, message):
    with pytest.raises(error, match=message):
        Schedule(**settings)


@given(
    st.builds(
        Schedule,
        num_train_timesteps=st.integers(2, 50),
        beta_start=st.floats(1e-5, 1e-3),
        beta_end=st.floats(1e-3, 0.1),
        beta_schedule=st.sampled_from(BETA_SCHEDULES),
        prediction_type=st.sampled_from(["epsilon", "sample", "v_prediction"]),
        steps_offset=st.integers(0, 3),
        clip_sample=st.booleans(),
        set_alpha_to_one=st.booleans(),
        rescale_betas_zero_snr=st.booleans(),
    )
)
def test_a_schedule_survives_its_configuration(schedule):
    assert Schedule.from_config(json.loads(json.dumps(schedule.to_config()))) == schedule
    assert hash(schedule) == hash(Schedule(**schedule.to_config()))


PEERS = {
    "ddpm": (diffusers.DDPMScheduler, {}),
    "ddim": (diffusers.DDIMScheduler, {}),
    "euler": (diffusers.EulerDiscreteScheduler, {}),
    "euler_ancestral": (diffusers.EulerAncestralDiscreteScheduler, {}),
    "dpmpp_2m": (diffusers.DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_sde": (diffusers.DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
}


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("solver", PEERS)
def test_configurations_of_diffusers_are_read(solver, tmp_path):
    cls, settings = PEERS[solver]
    peer = cls(
        beta_schedule="scaled_linear", beta_end=0.012, prediction_type="v_prediction", **settings
    )
    schedule = Schedule.from_config(peer.config)
    assert schedule.beta_schedule == "scaled_linear"
    assert schedule.prediction_type == "v_prediction"
    assert schedule.timestep_spacing == peer.config.timestep_spacing
    named = {**peer.config, "_class_name": cls.__name__}  # only a saved configuration has it
    assert solver_from_config(named) == get_solver(solver)
    peer.save_pretrained(tmp_path / "scheduler")
    for place in (tmp_path, tmp_path / "scheduler", tmp_path / "scheduler/scheduler_config.json"):
        assert Schedule.from_config(place) == schedule
        assert solver_from_config(str(place)) == get_solver(solver)


def test_options_of_a_configuration_reach_the_solver():
    config = {
        "_class_name": "DPMSolverMultistepScheduler",
        "solver_type": "heun",
        "euler_at_final": True,
        "lower_order_final": False,
    }
    want = get_solver("dpmpp_2m", solver_type="heun", euler_at_final=True, lower_order_final=False)
    assert solver_from_config(config) == want
    for key, value in (("solver_order", 4), ("algorithm_type", "dpmsolver")):
        with pytest.raises(InvalidArgument, match="not supported; supported: orders 1 to 3 of"):
            solver_from_config({**config, key: value})
    with pytest.raises(UnknownName, match=r"'LMSDiscreteScheduler'; known: DDIMInverseScheduler"):
        solver_from_config({"_class_name": "LMSDiscreteScheduler"})
    for key, value in (("predict_x0", False), ("solver_p", "DDIMScheduler")):
        with pytest.raises(InvalidArgument, match=f"{key}=.*not supported by 'unipc'"):
            solver_from_config({"_class_name": "UniPCMultistepScheduler", key: value})


def test_values_of_sibling_classes_become_what_diffusers_makes_of_them():
    for name, borrowed, want in (
        ("DPMSolverMultistepScheduler", {"solver_type": "bh2"}, get_solver("dpmpp_2m")),
        ("DPMSolverMultistepScheduler", {"algorithm_type": "deis"}, get_solver("dpmpp_2m")),
        ("UniPCMultistepScheduler", {"solver_type": "midpoint"}, get_solver("unipc")),
    ):
        assert solver_from_config({"_class_name": name, **borrowed}) == want
    # DDIM never reads a sigma spacing, though a configuration from elsewhere may carry one.
    borrowed = {"_class_name": "DDIMScheduler", "use_karras_sigmas": True}
    assert Schedule.from_config(borrowed) == Schedule()


def test_configurations_without_discrete_times_are_read():
    edm = Schedule.from_config({"_class_name": "EDMEulerScheduler", "sigma_data": 0.7})
    assert (edm.process, edm.prediction_type, edm.use_karras_sigmas) == ("edm", "edm", True)
    assert (edm.sigma_min, edm.sigma_max, edm.sigma_data) == (0.002, 80.0, 0.7)
    flow = Schedule.from_config({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0})
    assert (flow.process, flow.prediction_type, flow.shift) == ("flow", "flow_prediction", 3.0)
    assert flow.level(250.0) == (0.75, 0.25)
    assert edm.level(0.25 * np.log(3.0)) == (1.0, pytest.approx(3.0, rel=1e-14))


def test_dynamic_shifting_needs_its_mu():
    schedule = Schedule.from_config(
        {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    )
    euler = get_solver("euler")
    with pytest.raises(InvalidArgument, match=r"schedule\.shifted\(mu\)"):
        euler.table(schedule, 5)
    peer = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    peer.set_timesteps(sigmas=np.linspace(1.0, 0.2, 5), mu=0.9)
    ours = euler.table(schedule.shifted(0.9), sigmas=np.linspace(1.0, 0.2, 5).tolist())
    np.testing.assert_allclose(ours.sigma, peer.sigmas[:-1], rtol=1e-6)
    np.testing.assert_allclose(ours.t, peer.timesteps, rtol=1e-6)
    with pytest.raises(InvalidArgument, match="use_dynamic_shifting=True"):
        Schedule().shifted(0.9)


def test_a_left_out_spacing_is_that_of_the_class():
    assert Schedule.from_config({}).timestep_spacing == "leading"
    euler = {"_class_name": "EulerDiscreteScheduler"}
    assert Schedule.from_config(euler).timestep_spacing == "linspace"
    named = {**euler, "timestep_spacing": "trailing"}
    assert Schedule.from_config(named).timestep_spacing == "trailing"


def test_stable_diffusion_pndm_configuration_is_read():
    schedule = Schedule.from_config(
        {
            "_class_name": "PNDMScheduler",
            "_diffusers_version": "0.6.0",
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "num_train_timesteps": 1000,
            "set_alpha_to_one": False,
            "skip_prk_steps": True,
            "steps_offset": 1,
            "trained_betas": None,
            "clip_sample": False,
        }
    )
    assert schedule.alphas_cumprod[-1] == pytest.approx(0.0046600, rel=1e-4)
    assert (schedule.steps_offset, schedule.clip_sample, schedule.set_alpha_to_one) == (
        1,
        False,
        False,
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("invert_sigmas", True),
        ("interpolation_type", "log_linear"),
    ],
)
def test_settings_that_would_change_the_samples_are_refused(key, value):
    with pytest.raises(InvalidArgument, match=f"{key}=.*not supported"):
        Schedule.from_config({key: value})


def test_unknown_settings_are_refused_with_the_known_ones():
    with pytest.raises(InvalidArgument, match=r"'beta_strat'; known: .*beta_start"):
        Schedule.from_config({"beta_strat": 0.1})


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(InvalidArgument, match="no scheduler configuration at"):
        Schedule.from_config(tmp_path)
    file = tmp_path / "scheduler_config.json"
    for content, message in (
        ("{", "not JSON"),
        ("[1]", "JSON object of settings, got list"),
        ("[" * 100_000, "not JSON"),
        (b"\xff\xfe{}", "not JSON"),
        (" " * (MAX_CONFIG_BYTES + 1), f"is {MAX_CONFIG_BYTES + 1} bytes"),
    ):
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(InvalidArgument, match=message):
            Schedule.from_config(file)
