"""Whole trajectories through diffusers' own schedulers, as shipped and in double precision."""

import contextlib
import importlib
import math
import sys
import types
import warnings
from unittest import mock

import numpy as np
import torch
from diffusers import schedulers

MODULES = {
    "DDIMInverseScheduler": "ddim_inverse",
    "DDIMScheduler": "ddim",
    "DDPMScheduler": "ddpm",
    "DEISMultistepScheduler": "deis_multistep",
    "DPMSolverMultistepScheduler": "dpmsolver_multistep",
    "DPMSolverSDEScheduler": "dpmsolver_sde",
    "DPMSolverSinglestepScheduler": "dpmsolver_singlestep",
    "EDMDPMSolverMultistepScheduler": "edm_dpmsolver_multistep",
    "EDMEulerScheduler": "edm_euler",
    "EulerAncestralDiscreteScheduler": "euler_ancestral_discrete",
    "EulerDiscreteScheduler": "euler_discrete",
    "FlowMatchEulerDiscreteScheduler": "flow_match_euler_discrete",
    "FlowMatchHeunDiscreteScheduler": "flow_match_heun_discrete",
    "HeunDiscreteScheduler": "heun_discrete",
    "KDPM2AncestralDiscreteScheduler": "k_dpm_2_ancestral_discrete",
    "KDPM2DiscreteScheduler": "k_dpm_2_discrete",
    "LCMScheduler": "lcm",
    "PNDMScheduler": "pndm",
    "UniPCMultistepScheduler": "unipc_multistep",
}


class Widened:
    """A module whose float32 is float64, so that code which asks for float32 runs in double."""

    def __init__(self, module):
        self._module = module

    def __getattr__(self, name):
        return getattr(self._module, "float64" if name == "float32" else name)


@contextlib.contextmanager
def scheduler_module(name, *, double, noise):
    """The module of a scheduler class; draw i of its random numbers is noise[cursor[0]]."""
    # Imported by one module for its Brownian noise only, which is replaced here.
    sys.modules.setdefault("torchsde", types.ModuleType("torchsde"))
    module = importlib.import_module(f"{schedulers.__name__}.scheduling_{MODULES[name]}")
    dtype, cursor = torch.float64 if double else torch.float32, [0]
    kept = {k: getattr(module, k) for k in ("torch", "np", "randn_tensor") if hasattr(module, k)}
    module.randn_tensor = lambda *_, **__: torch.tensor(noise[cursor[0]], dtype=dtype)
    if double:
        torch.set_default_dtype(torch.float64)
        module.torch, module.np = Widened(torch), Widened(np)
    try:
        with warnings.catch_warnings():
            # diffusers 0.42 calls np.array on tensors, which NumPy 2 frowns upon, takes logarithms
            # of its final sigma of 0, and asks for the logarithm of alpha = 0.
            warnings.filterwarnings("ignore", "__array_", DeprecationWarning)
            warnings.filterwarnings("ignore", "divide by zero", RuntimeWarning)
            yield module, dtype, cursor
    finally:
        torch.set_default_dtype(torch.float32)
        for key, value in kept.items():
            setattr(module, key, value)


def construct(scheduler, config):
    """Return a scheduler whose constructor does not set out a thousand steps, which takes long."""

    def set_two(self, *_, **__):
        given(self, 2)

    given = scheduler.set_timesteps
    with mock.patch.object(scheduler, "set_timesteps", set_two):
        return scheduler(**config)


def correlated_noise(scheduler, noise, cursor, dtype):
    """Replace the Brownian tree of DPMSolverSDE by noise of the same correlation.

    The noise of the whole step shares rho = sqrt((sigma - middle) / (sigma - sigma')) with that of
    its first half.
    """

    def sample(*_):
        fresh, before = (np.float64(noise[cursor[0] - back]) for back in (0, 1))
        if scheduler.state_in_first_order:
            return torch.tensor(fresh, dtype=dtype)
        at = scheduler.step_index
        start, end = (float(s) for s in scheduler.sigmas[at - 1 : at + 1])
        rho = math.sqrt((start - math.sqrt(start * end)) / (start - end))
        return torch.tensor(rho * before + math.sqrt(1 - rho * rho) * fresh, dtype=dtype)

    scheduler.noise_sampler = sample


def run_scheduler(
    name,
    config,
    steps,
    x,
    outputs,
    noise,
    *,
    double,
    variance=None,
    rescaled=False,
    start=0,
    **step_options,
):
    """Return (x after each step, times, alphas_cumprod) of a diffusers scheduler, float64.

    `outputs` is a list of arrays or a callable (x_in, t, i) -> m. With `rescaled` the scaled model
    input is stepped instead of x, as the published test values of the Euler family do. The first
    `start` steps are left out as the image-to-image pipelines do. The third is None for the
    schedulers without discrete times.
    """
    with scheduler_module(name, double=double, noise=noise) as (module, dtype, cursor):
        scheduler = construct(getattr(module, name), config)
        scheduler.set_timesteps(steps)
        begin = start * scheduler.order
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(
                begin
            )  # or a first time listed twice starts at its second place
        if name == "DPMSolverSDEScheduler":
            correlated_noise(scheduler, noise, cursor, dtype)
        x, trajectory = torch.tensor(x, dtype=dtype), []
        for i, t in enumerate(scheduler.timesteps[begin:]):
            cursor[0] = i
            scale = getattr(scheduler, "scale_model_input", lambda x, _: x)
            x_in = scale(x, t)
            m = outputs(x_in.numpy(), float(t), i) if callable(outputs) else outputs[i]
            m = torch.tensor(m, dtype=dtype)
            if variance is not None:
                m = torch.cat([m, torch.tensor(variance[i], dtype=dtype)], 1)
            x = scheduler.step(m, t, x_in if rescaled else x, **step_options).prev_sample
            trajectory.append(x.double().numpy())
        levels = getattr(scheduler, "alphas_cumprod", None)
        times = scheduler.timesteps[begin:].double().numpy()
        return np.array(trajectory), times, None if levels is None else levels.double().numpy()
