"""Scheduler objects of diffusers: what is read from them, and what is refused."""

import dataclasses
import functools
import inspect

import diffusers
import numpy as np
import pytest
import torch

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.integrations.schedulers import is_scheduler, read_scheduler, schedule_of
from fastdiff.sampling import Schedule, known_schedulers, run_table, solver_from_config

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),  # diffusers
]

NAMES = [name for name in known_schedulers() if name != "DPMSolverSDEScheduler"]  # needs torchsde
NAMES += ["DDIMParallelScheduler", "DDPMParallelScheduler"]
OF_BETAS = [name for name in NAMES if not name.startswith(("EDM", "FlowMatch"))]


def make(name, **options):
    """A scheduler of few times, since some classes take long to make many."""
    return getattr(diffusers, name)(num_train_timesteps=60, **options)


def derive(name, **members):
    return type("Mine", (getattr(diffusers, name),), members)


def sample(scheduler):
    """Sample with a scheduler, as a pipeline does; the network halves what it gets."""
    scheduler.set_timesteps(6)
    x = torch.tensor([[[[0.5, -0.8]]]]) * getattr(scheduler, "init_noise_sigma", 1.0)
    for t in scheduler.timesteps:
        if hasattr(scheduler, "scale_model_input"):
            m = 0.5 * scheduler.scale_model_input(x, t)
        else:
            m = 0.5 * x
        x = scheduler.step(m, t, x).prev_sample
    return x


@pytest.mark.parametrize("name", NAMES)
def test_an_object_says_what_its_configuration_says(name):
    # This class sets it itself when its times are set.
    options = {"lower_order_final": True} if "Singlestep" in name else {}
    scheduler = make(name, **options)
    config = {**scheduler.config, "_class_name": name}
    expected = solver_from_config(config), Schedule.from_config(config)
    assert read_scheduler(scheduler) == expected
    sample(scheduler)
    assert read_scheduler(scheduler) == expected
    assert read_scheduler(derive(name)(num_train_timesteps=60, **options)) == expected
    assert schedule_of(scheduler) == expected[1]


@pytest.mark.parametrize("name", OF_BETAS)
def test_betas_that_were_changed_are_read(name):
    scheduler = make(name)
    plain = schedule_of(scheduler)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**0.9
    if name == "PNDMScheduler":  # which ends there
        scheduler.final_alpha_cumprod = scheduler.alphas_cumprod[0]
    read = schedule_of(scheduler)
    np.testing.assert_allclose(read.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-12)
    assert read == Schedule.from_config({**plain.to_config(), "trained_betas": read.trained_betas})


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "UniPCMultistepScheduler",
    ],
)
def test_changed_betas_give_the_samples_that_the_object_gives(name):
    scheduler = make(name)
    plain = sample(scheduler)
    scheduler.alphas_cumprod = scheduler.alphas_cumprod**3
    solver, schedule = read_scheduler(scheduler)
    table = solver.table(schedule, 6, compat="diffusers")
    start = np.array([[[[0.5, -0.8]]]]) * table.init_noise_sigma
    ours = run_table(table, lambda x, t: 0.5 * x, start)[-1]
    np.testing.assert_allclose(sample(scheduler), ours, rtol=1e-4, atol=1e-5)
    assert abs(plain - ours).max() > 0.01


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "LCMScheduler"])
def test_betas_that_were_rescaled_by_hand_keep_their_zero_snr(name):
    by_flag, by_hand = (make(name, rescale_betas_zero_snr=f) for f in (True, False))
    by_hand.alphas_cumprod = by_flag.alphas_cumprod
    read = schedule_of(by_hand)
    assert read.alphas_cumprod[-1] == 0
    np.testing.assert_allclose(read.alphas_cumprod, by_flag.alphas_cumprod, rtol=1e-12)


def test_betas_that_no_step_reads_are_refused():
    scheduler = diffusers.DDIMScheduler()
    scheduler.betas = scheduler.betas * 0.9
    with pytest.raises(InvalidArgument, match=r"betas were changed, but not alphas_cumprod"):
        read_scheduler(scheduler)


@pytest.mark.parametrize("name", NAMES)
def test_a_method_of_its_own_is_refused(name):
    known = getattr(diffusers, name)
    methods = {key: value for key, value in vars(known).items() if inspect.isfunction(value)}
    assert {"step", "set_timesteps"} < methods.keys()
    for key in methods.keys() - {"__init__", "__len__"}:
        same = functools.partialmethod(methods[key])
        with pytest.raises(InvalidArgument, match=rf"Mine\.{key} is not that of {name}, and no"):
            read_scheduler(derive(name, **{key: same})(num_train_timesteps=60))
        scheduler = make(name)
        setattr(scheduler, key, getattr(scheduler, key))
        with pytest.raises(InvalidArgument, match=rf"{name}\.{key} is not that of {name}"):
            read_scheduler(scheduler)


def test_every_method_that_steps_may_use_is_looked_at(monkeypatch):
    with pytest.raises(InvalidArgument, match=r"Mine\._get_variance is not that of DDIMSch"):
        read_scheduler(derive("DDIMScheduler", _get_variance=lambda self, *times: 0.0)())
    with pytest.raises(InvalidArgument, match=r"Mine\.init_noise_sigma is not that of Euler"):
        read_scheduler(derive("EulerDiscreteScheduler", init_noise_sigma=property(float))())
    borrowed = diffusers.DDPMScheduler._threshold_sample
    with pytest.raises(InvalidArgument, match="_threshold_sample is not that of DDIMScheduler"):
        read_scheduler(derive("DDIMScheduler", _threshold_sample=borrowed)())
    monkeypatch.setattr(diffusers.PNDMScheduler, "step_plms", lambda *args: None)
    with pytest.raises(InvalidArgument, match="step_plms is not that of PNDMScheduler"):
        read_scheduler(diffusers.PNDMScheduler())


@pytest.mark.parametrize(
    ("name", "attribute", "value"),
    [
        ("DDIMScheduler", "final_alpha_cumprod", torch.tensor(0.99)),
        ("DDIMInverseScheduler", "initial_alpha_cumprod", torch.tensor(0.99)),
        ("DDPMScheduler", "one", torch.tensor(0.99)),
        ("DDPMScheduler", "variance_type", "learned"),
        ("PNDMScheduler", "init_noise_sigma", 2.0),
        ("PNDMScheduler", "pndm_order", 3),
        ("EulerDiscreteScheduler", "use_karras_sigmas", True),
        ("UniPCMultistepScheduler", "predict_x0", False),
        ("FlowMatchEulerDiscreteScheduler", "sigma_min", 0.1),
        ("HeunDiscreteScheduler", "order", 1),
    ],
)
def test_what_steps_would_compute_otherwise_is_refused(name, attribute, value):
    scheduler = make(name)
    setattr(scheduler, attribute, value)
    with pytest.raises(
        InvalidArgument, match=rf"scheduler's {attribute} is .* {name}\.from_config"
    ):
        read_scheduler(scheduler)


def test_a_shift_that_was_set_later_is_refused():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_shift(3.0)
    with pytest.raises(InvalidArgument, match=r"_shift is 3.0, and its configuration makes it 1"):
        read_scheduler(scheduler)
    clipped = diffusers.DPMSolverMultistepScheduler(lambda_min_clipped=-5.1)
    clipped.lambda_t = clipped.lambda_t + 1
    with pytest.raises(InvalidArgument, match="lambda_t is"):
        read_scheduler(clipped)


def test_a_scheduler_in_a_scheduler_is_refused():
    inner = diffusers.DDIMScheduler()
    with pytest.raises(InvalidArgument, match=r"(?s)solver_p=.*not supported by 'unipc'"):
        read_scheduler(diffusers.UniPCMultistepScheduler(solver_p=inner))


def test_times_of_the_last_run_say_nothing():
    """Whoever samples sets them anew."""
    scheduler = diffusers.EulerDiscreteScheduler()
    expected = read_scheduler(scheduler)
    scheduler.set_timesteps(timesteps=[900, 400, 30])
    scheduler.sigmas = scheduler.sigmas * 2
    assert read_scheduler(scheduler) == expected


def test_a_subclass_that_makes_its_betas_is_read():
    def build(self):
        diffusers.DDIMScheduler.__init__(self, beta_schedule="scaled_linear")
        self.alphas_cumprod = self.alphas_cumprod**2

    scheduler = derive("DDIMScheduler", __init__=build)()
    read = schedule_of(scheduler)
    np.testing.assert_allclose(read.alphas_cumprod, scheduler.alphas_cumprod, rtol=1e-12)
    assert read.beta_schedule == "scaled_linear"


def test_keys_of_another_class_do_not_change_what_it_does():
    """`from_config` keeps them; the class does not read them, though another solver would."""
    mixed = {"clip_sample": False, "rescale_betas_zero_snr": True, "predict_epsilon": False}
    scheduler = diffusers.PNDMScheduler.from_config({**mixed, "mine": 3})
    assert read_scheduler(scheduler)[0] == read_scheduler(diffusers.PNDMScheduler())[0]
    expected = schedule_of(diffusers.PNDMScheduler())
    assert schedule_of(scheduler) == dataclasses.replace(expected, clip_sample=False)


def test_a_class_that_is_not_of_diffusers_is_refused_whatever_its_name():
    class DDIMScheduler:
        config = diffusers.DDIMScheduler().config

    class Own(diffusers.SchedulerMixin, diffusers.ConfigMixin):
        pass

    assert is_scheduler(diffusers.LMSDiscreteScheduler())
    assert is_scheduler(Own())
    with pytest.raises(UnknownName, match=r"scheduler class '.*Own'; known"):
        schedule_of(Own())
    assert not is_scheduler(DDIMScheduler())
    with pytest.raises(UnknownName, match=r"DDIMScheduler'; known: DDIMInverseScheduler"):
        read_scheduler(DDIMScheduler())
    with pytest.raises(UnknownName, match="'LMSDiscreteScheduler'; known"):
        read_scheduler(diffusers.LMSDiscreteScheduler())
    assert schedule_of(diffusers.LMSDiscreteScheduler()).alphas_cumprod[-1] < 0.01
