"""Whole trajectories through diffusers' own schedulers, as shipped and in double precision."""

import contextlib
import importlib
import warnings

import numpy as np
import torch

MODULES = {
    "DDPMScheduler": "scheduling_ddpm",
    "DDIMScheduler": "scheduling_ddim",
    "EulerDiscreteScheduler": "scheduling_euler_discrete",
    "EulerAncestralDiscreteScheduler": "scheduling_euler_ancestral_discrete",
    "DPMSolverMultistepScheduler": "scheduling_dpmsolver_multistep",
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
    module = importlib.import_module(f"diffusers.schedulers.{MODULES[name]}")
    dtype, cursor = torch.float64 if double else torch.float32, [0]
    kept = {key: getattr(module, key) for key in ("torch", "np", "randn_tensor")}
    module.randn_tensor = lambda *_, **__: torch.tensor(noise[cursor[0]], dtype=dtype)
    if double:
        torch.set_default_dtype(torch.float64)
        module.torch, module.np = Widened(torch), Widened(np)
    try:
        with warnings.catch_warnings():
            # diffusers 0.42 calls np.array on tensors, which NumPy 2 frowns upon.
            warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)
            yield module, dtype, cursor
    finally:
        torch.set_default_dtype(torch.float32)
        for key, value in kept.items():
            setattr(module, key, value)


def run_scheduler(
    name, config, steps, x, outputs, noise, *, double, variance=None, rescaled=False, **step_options
):
    """Return (x after each step, times, alphas_cumprod) of a diffusers scheduler, float64.

    `outputs` is a list of arrays or a callable (x_in, t, i) -> m. With `rescaled` the scaled model
    input is stepped instead of x, as the published test values of the Euler family do.
    """
    with scheduler_module(name, double=double, noise=noise) as (module, dtype, cursor):
        scheduler = getattr(module, name)(**config)
        scheduler.set_timesteps(steps)
        x, trajectory = torch.tensor(x, dtype=dtype), []
        for i, t in enumerate(scheduler.timesteps):
            cursor[0] = i
            x_in = scheduler.scale_model_input(x, t)
            m = outputs(x_in.numpy(), float(t), i) if callable(outputs) else outputs[i]
            m = torch.tensor(m, dtype=dtype)
            if variance is not None:
                m = torch.cat([m, torch.tensor(variance[i], dtype=dtype)], 1)
            x = scheduler.step(m, t, x_in if rescaled else x, **step_options).prev_sample
            trajectory.append(x.double().numpy())
        times, levels = scheduler.timesteps.double(), scheduler.alphas_cumprod.double()
        return np.array(trajectory), times.numpy(), levels.numpy()
