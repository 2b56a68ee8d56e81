"""The engine in the place of a pipeline's denoising loop.

A pipeline of diffusers is a prologue, a loop, and an epilogue, and its loop is always this one::

    for t in scheduler.timesteps:
        m = denoiser(scheduler.scale_model_input(x, t), t, **conditioning)
        x = scheduler.step(m, t, x)

For one call both partners are replaced. The denoiser notes its inputs and computes nothing; the
scheduler's ``step`` has the engine take one step of all rows that it runs, and what the last turn
gets back are the samples. The pipeline's own code does everything else.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fastdiff.errors import InvalidArgument
from fastdiff.integrations.pipelines.families import Family, paints_masked
from fastdiff.runtime import Sampler
from fastdiff.runtime.requests import Request, Ticket
from fastdiff.sampling import Solver, get_solver


class Loop:
    """One call of a pipeline: what its loop shows of itself, and the request that answers it.

    Parameters
    ----------
    sampler : Sampler
        With the pipeline's schedule.
    solver : Solver
        That of the pipeline's scheduler.
    family : Family
    scheduler : SchedulerMixin
        The pipeline's.
    arguments : mapping
        Of the call, by name, with its defaults.

    Attributes
    ----------
    scheduler : LoopScheduler
        What the loop gets instead.
    rows : int
        Rows that the denoiser is called with, two for each image if guided.
    inputs : dict of str to Tensor
        Its conditioning.
    image, noise, mask : Tensor or None
        What the samples start from and keep: (n, C, H, W), and (n, 1, H, W) for the mask.
    """

    def __init__(
        self,
        sampler: Sampler,
        solver: Solver,
        family: Family,
        scheduler: Any,
        arguments: Mapping[str, Any],
    ) -> None:
        self.scheduler = LoopScheduler(scheduler, self)
        self._sampler, self._solver, self._family = sampler, solver, family
        self._arguments = arguments
        self._ticket: Ticket | None = None
        self.rows = 0
        self.inputs: dict[str, Tensor] = {}
        self.image: Tensor | None = None
        self.noise: Tensor | None = None
        self.mask: Tensor | None = None

    def turn(self, state: Tensor, *, last: bool) -> Tensor:
        """Take a step; return the samples in the last turn, and `state` before."""
        engine = self._sampler.engine
        if self._ticket is None:
            self._ticket = engine.submit(self._request(state))
        engine.advance(self._ticket)
        while last and not self._ticket.done:  # more images than the engine has room for
            engine.advance(self._ticket)
        if not self._ticket.done:
            return state
        samples = self._ticket.result().to(state)
        return samples.repeat(len(state) // len(samples), 1, 1, 1)

    def cancel(self) -> None:
        """Free the engine's rows."""
        if self._ticket is not None:
            self._sampler.engine.cancel(self._ticket)

    def _request(self, state: Tensor) -> Request:
        given = self._arguments
        n = len(given["class_labels"]) if self._family.doubles_state else len(state)
        options = self._times()
        options["latents"] = state[:n] if self.noise is None else self.noise
        conditional = self.inputs
        if self.rows == 2 * n:
            conditional, negative = self._halves(n)
            options |= {"guidance_scale": given["guidance_scale"], "negative": negative}
            if given.get("guidance_rescale"):
                options["guidance_rescale"] = given["guidance_rescale"]
        if self.image is not None:
            options |= {"image": self.image, "strength": given["strength"]}
        if self.mask is not None:
            options["mask"] = self.mask[:n]  # a guided loop has it twice
        options |= conditional
        return self._sampler.request(
            n,
            solver=self._with_options(),
            seed=_seeds(given["generator"]),
            compat="diffusers",
            **options,
        )

    def _times(self) -> dict[str, Any]:
        """Return the arguments that say which times are visited."""
        timesteps, sigmas = (self._arguments.get(name) for name in ("timesteps", "sigmas"))
        if timesteps is not None:
            return {"timesteps": timesteps}
        if sigmas is None:
            return {"steps": self._arguments["num_inference_steps"]}
        if len(sigmas) == len(self.scheduler.timesteps):
            return {"sigmas": sigmas}
        *levels, end = sigmas  # this scheduler's list includes the level at which it ends
        if end != 0:
            raise InvalidArgument(f"sigmas: expected 0, the data, as the last one, got {end:g}")
        return {"sigmas": levels}

    def _halves(self, n: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the conditional inputs, and the unconditional ones if they are not the null."""
        first = {name: value[:n] for name, value in self.inputs.items()}
        second = {name: value[n:] for name, value in self.inputs.items()}
        return (first, {}) if self._family.doubles_state else (second, first)

    def _with_options(self) -> Solver:
        """Return the solver with the options that a call may give."""
        given = self._arguments
        options = {
            name: given[name]
            for name in ("eta", "use_clipped_model_output")
            if given.get(name)  # 0, False and None are what solvers without the option do
        }
        return get_solver(self._solver, **options)


def watch_inpainting(pipe: Any, loop: Loop) -> None:
    """Note what a pipeline that inpaints with a plain U-Net prepares for its loop.

    Such a loop blends the known part in by itself, so neither partner is told of it.
    """
    prepare_latents, prepare_mask = pipe.prepare_latents, pipe.prepare_mask_latents

    def noting_image(*args: Any, **options: Any) -> Any:
        prepared = prepare_latents(*args, **options)
        _, loop.noise, loop.image = prepared
        return prepared

    def noting_mask(*args: Any, **options: Any) -> Any:
        prepared = prepare_mask(*args, **options)
        loop.mask = prepared[0]
        return prepared

    vars(pipe).update(prepare_latents=noting_image, prepare_mask_latents=noting_mask)


class LoopScheduler:
    """The scheduler of one call: the times of `scheduler`, and the steps of the engine."""

    init_noise_sigma = 1.0  # latents stay standard normal, as the engine takes them

    def __init__(self, scheduler: Any, loop: Loop) -> None:
        self._scheduler, self._loop = copy.copy(scheduler), loop
        self._turn = 0
        self.set_timesteps = self._scheduler.set_timesteps  # pipelines look at its signature

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # pipelines name it in their messages, and look at what it is
        return type(self._scheduler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at a later time."""
        self._turn = begin_index

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Leave the scaling to the engine."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """Note what the samples start from."""
        self._loop.image, self._loop.noise = original_samples, noise
        return noise

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any
    ) -> _PreviousSample:
        """Have the engine take a step."""
        self._turn += 1
        return _PreviousSample(self._loop.turn(sample, last=self._turn == len(self.timesteps)))


class LoopDenoiser(nn.Module):
    """The denoiser of one call: notes its inputs."""

    def __init__(self, model: Any, size: tuple[int, int], loop: Loop) -> None:
        super().__init__()
        self.model, self._loop = model, loop
        height, width = size
        compiled_for = {"sample_size": height if height == width else (height, width)}
        self.config = type(model.config)({**model.config, **compiled_for})
        self.dtype, self.device = model.dtype, model.device

    def forward(self, x: Tensor, *times: Any, **inputs: Any) -> _Prediction:
        """Return a prediction that nobody reads, of the right shape."""
        channels = int(self.config.out_channels)
        known = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        known.pop("timestep", None)
        if paints_masked(self):
            known["mask_latents"] = x[:, channels : channels + 1]
            known["masked_image_latents"] = x[:, channels + 1 :]
        self._loop.rows, self._loop.inputs = len(x), known
        return _Prediction(x.new_zeros(()).expand(len(x), channels, *x.shape[2:]))


class _PreviousSample(NamedTuple):
    """What a scheduler's step returns, as a tuple and by name."""

    prev_sample: Tensor


class _Prediction(NamedTuple):
    """What a denoiser returns, as a tuple and by name."""

    sample: Tensor


def _seeds(generator: torch.Generator | list[torch.Generator] | None) -> int | list[int]:
    """Return the seed of the noise of steps, or one for each image.

    Without a generator it is drawn as diffusers draws its noise, from torch's own.
    """
    if generator is None:
        return int(torch.randint(2**63 - 1, ()))
    if isinstance(generator, list):
        return [g.initial_seed() for g in generator]
    return generator.initial_seed()
