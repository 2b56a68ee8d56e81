"""The engine in the place of a pipeline's denoising loop.

A pipeline of diffusers is a prologue, a loop, and an epilogue, and its loop is always this one::

    for t in scheduler.timesteps:
        m = denoiser(scheduler.scale_model_input(x, t), t, **conditioning)
        x = scheduler.step(m, t, x)

For one call both partners are replaced (`fastdiff.integrations.pipelines.stand_ins`). The denoiser
notes its inputs and computes nothing; the scheduler's ``step`` has the engine take one step of all
rows that it runs, and what the last turn gets back are the samples. The pipeline's own code does
everything else.
"""

from __future__ import annotations

import threading
import warnings
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdiff.engine.requests import Request, Start, StepInfo, Ticket
from fastdiff.errors import DeviationWarning, InvalidArgument
from fastdiff.integrations.pipelines.families import Family
from fastdiff.integrations.pipelines.seeds import Seeds
from fastdiff.integrations.pipelines.stand_ins import SchedulerStandIn
from fastdiff.sampler import Sampler
from fastdiff.sampling import Solver, get_solver

_around_loops = threading.RLock()
"""Held in a pipeline's own code before and after its loop.

That code and its components are not made for threads: a fast tokenizer is borrowed while it works,
a generator is drawn from, offloaded models move. One lock serves all pipelines, since pipelines
share components.
"""


class Loop:
    """One call of a pipeline: what its loop shows of itself, and the request that answers it.

    A context manager: in it calls take turns, except while their loops run.

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
    scheduler : SchedulerStandIn
        What the loop gets instead.
    seeds : Seeds
        Of the noise of steps; to be set before the pipeline draws from its generators.
    ended : bool
        Whether the loop has taken its last step.
    rows : int
        Rows that the denoiser is called with, two for each image if guided.
    inputs : dict of str to Tensor
        Its conditioning.
    strength : float
        Share of the steps that are taken.
    image, noise, mask : Tensor or None
        What the loop keeps of a picture: (n, C, H, W), and (n, 1, H, W) for the mask.
    """

    seeds: Seeds

    def __init__(
        self,
        sampler: Sampler,
        solver: Solver,
        family: Family,
        scheduler: Any,
        arguments: Mapping[str, Any],
    ) -> None:
        self.scheduler = SchedulerStandIn(scheduler, self)
        self._sampler, self._solver, self._family = sampler, solver, family
        self._arguments = arguments
        self._states: StepStates | None = None
        self._ticket: Ticket | None = None
        self._turns = 0
        self._alone = False
        self.ended = False
        self.strength = float(arguments.get("strength", 1.0))
        self.rows = 0
        self.inputs: dict[str, Tensor] = {}
        self.image: Tensor | None = None
        self.noise: Tensor | None = None
        self.mask: Tensor | None = None

    def __enter__(self) -> Loop:
        """Begin the prologue."""
        self.enter()
        return self

    def __exit__(self, *_: object) -> None:
        """Free the engine's rows, if any are left, and let the next call in."""
        if self._ticket is not None:
            self._sampler.engine.cancel(self._ticket)
        self.leave()

    def enter(self) -> None:
        """Wait until no other call is outside its loop; the pipeline's own code runs now."""
        if not self._alone:
            _around_loops.acquire()
            self._alone = True

    def leave(self) -> None:
        """Let other calls run."""
        if self._alone:
            self._alone = False
            _around_loops.release()

    def turn(self, state: Tensor, *, last: bool) -> Tensor:
        """Take a step; return the state after it if somebody watches, and after the last one.

        Otherwise nobody reads it, and `state` is returned as it is.
        """
        engine = self._sampler.engine
        if self._ticket is None:
            self._ticket = engine.submit(self._request(state))
            self.leave()
        self._turns += 1
        engine.advance(self._ticket)
        while not self._ticket.done and (last or self._is_behind()):
            engine.advance(self._ticket)
        reached = self._ticket.result() if self._ticket.done else None
        if last:
            self.ended = True
            self.enter()
        elif self._states is not None:
            reached = self._states.pop(self._turns)
        if reached is None:
            return state
        reached = reached.to(state)
        return reached.repeat(len(state) // len(reached), 1, 1, 1)

    def _is_behind(self) -> bool:
        """Whether somebody watches, and images for which the engine had no room come later."""
        return self._states is not None and self._states.complete < self._turns

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
        if "strength" in given:
            picture = state if self.image is None else self.image
            options |= {"image": picture, "strength": given["strength"]}
        if self.mask is not None:
            options["mask"] = self.mask[:n]  # a guided loop has it twice
        if given.get("callback_on_step_end") is not None:
            self._states = StepStates(n)
            options["callback"] = self._states.note
        options |= conditional
        request = self._sampler.request(
            n,
            solver=self._with_options(),
            seed=self.seeds.value,
            compat="diffusers",
            **options,
        )
        if self.scheduler.turns_left < request.steps:
            raise InvalidArgument(
                "strength: with given times diffusers counts the evaluations of "
                f"{self.scheduler.__class__.__name__} as steps and leaves out too many of them; "
                "give num_inference_steps instead"
            )
        if request.table.first_c_in == 1 or self.scheduler.scales_input:
            # The pipeline has noised its picture, or scaled its noise: x starts as what that gave.
            request.start = Start(state[:n].float().cpu(), 1.0, 0.0)
        else:
            self._warn_of_scaling()
        if request.table.uses_noise:
            self.seeds.move_on()
        return request

    def _warn_of_scaling(self) -> None:
        """Say that diffusers is not followed: its loop leaves the level out that its steps need."""
        name = self.scheduler.__class__.__name__
        warnings.warn(
            f"with {name} this pipeline of diffusers gives wrong images: it does not scale its "
            "noise and the denoiser's input as that scheduler needs. fastdiff does, as "
            f"pipe.sampler.sample(solver={self._solver.name!r}, compat='diffusers')",
            DeviationWarning,
            stacklevel=2,
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


class StepStates:
    """The images of a request after each of its steps; some may take a step later than others.

    Parameters
    ----------
    images : int
        How many.
    """

    def __init__(self, images: int) -> None:
        self._taken = np.zeros(images, np.int64)
        self._after: defaultdict[int, dict[int, Tensor]] = defaultdict(dict)

    @property
    def complete(self) -> int:
        """Steps that all images have behind them."""
        return int(self._taken.min())

    def note(self, info: StepInfo) -> None:
        """Keep what a step made of its images: a callback of `Sampler.sample`."""
        steps = (self._taken[info.images] + 1).tolist()
        for step, image, state in zip(steps, info.images.tolist(), info.read_state(), strict=True):
            self._after[step][image] = state
        self._taken[info.images] += 1  # only now: another thread may wait for it

    def pop(self, step: int) -> Tensor:
        """Return all images after a step, (n, C, H, W) float32, and forget them."""
        images = self._after.pop(step)
        return torch.stack([images[i] for i in range(len(images))])
