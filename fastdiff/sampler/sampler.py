"""The public face of a compiled model."""

from __future__ import annotations

import copy
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fastdiff.compiling.compiled import Compiled
from fastdiff.compiling.updating import update_weights
from fastdiff.engine.batcher import EVERYONE, Batching
from fastdiff.engine.engine import Engine
from fastdiff.engine.requests import Callback, Request, Start
from fastdiff.modes import own_modes
from fastdiff.progress import sampling_progress
from fastdiff.sampler import arguments
from fastdiff.sampler.editing import Edit
from fastdiff.sampler.pickling import from_bytes, to_bytes
from fastdiff.sampler.tables import TableCache
from fastdiff.sampling import Schedule, Solver
from fastdiff.sampling.checks import check_number
from fastdiff.storing.artifact import save_artifact


class Sampler:
    """Samples images from a compiled denoiser; made by `fastdiff.compile`.

    Safe to use from several threads: their images share the denoiser's batches. It can be pickled
    and sent to another process, as the file that `save` writes.

    Attributes
    ----------
    report : Report
        Backend chosen, every candidate's measured rate and its error against the float32 model.
    schedule : Schedule
        The noise schedule that the model was trained with.
    """

    def __init__(
        self, compiled: Compiled, max_rows: int | None = None, *, batch_invariant: bool = False
    ) -> None:
        self._adopt(compiled)
        self._max_rows, self._batch_invariant = max_rows, batch_invariant
        self.engine = self.new_engine(max_rows)
        self._tables = TableCache(compiled.schedule)

    def __repr__(self) -> str:
        return f"<Sampler {self.network.name}: {self.report.chosen.name}>"

    def __copy__(self) -> Sampler:
        """Return a sampler that shares the engine."""
        other = Sampler.__new__(Sampler)
        vars(other).update(vars(self))
        return other

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle what `save` writes; an engine of its own is made of it where it is unpickled."""
        settings = (self.schedule, self._max_rows, self._batch_invariant)
        return _unpickled, (to_bytes(self._compiled), *settings)

    def sample(
        self,
        n: int | None = None,
        *,
        solver: str | Solver = "ddim",
        steps: int | None = None,
        eta: float | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        negative: Mapping[str, Any] | None = None,
        seed: int | Sequence[int] | None = None,
        latents: Tensor | None = None,
        image: Tensor | None = None,
        strength: float | None = None,
        mask: Tensor | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        compat: str | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        **conditioning: Any,
    ) -> Tensor:
        """Sample images.

        Parameters
        ----------
        n : int, optional
            Number of images; taken from what is given for each of them if left out.
        solver : str or Solver
            Name (see `fastdiff.list_solvers`), or a solver object with options of its own.
        steps : int, optional
            Number of steps, 1 to the schedule's ``num_train_timesteps``; 50 if neither
            `timesteps` nor `sigmas` is given.
        eta : float, optional
            Noise of DDIM, 0 (deterministic) to 1 (arXiv 2010.02502, eq. 16).
        guidance_scale : float or sequence of float
            Classifier-free guidance ``m_u + g (m_c - m_u)`` (arXiv 2207.12598), for all images or
            one each; 1 is none.
        guidance_interval : (float, float), optional
            Noise levels sigma / alpha, above the first and up to the second, at which guidance
            applies (arXiv 2404.07724, eq. 6); at the others the conditional branch alone is
            evaluated.
        guidance_rescale : float
            phi, 0 to 1: how far the guided output is given the deviation of the conditional one
            (arXiv 2305.08891, sec. 3.4).
        negative : mapping, optional
            What the unconditional branch of guidance gets instead of the null values, by input
            name, for all images or one each.
        seed : int or sequence of int, optional
            One seed, 0 to 2^64 - 1, from which every image draws its own noise by its number; or
            one seed per image. An image depends on its seed and number alone: not on the batch,
            the order or the machine. None draws a fresh one.
        latents : Tensor, optional
            (n, C, ...) standard normal noise to start from, instead of the seeds' own.
        image : Tensor, optional
            (n or 1, C, ...) clean data in the model's range: x starts as alpha image + sigma
            noise at the level of the first step that is taken.
        strength : float, optional
            In (0, 1]: ``min(int(steps * strength), steps)`` steps are taken, the last ones; 0.8
            with an image, 1 with a mask.
        mask : Tensor, optional
            (n or 1, 1 or C, ...) in [0, 1]: 1 where to paint anew, 0 where `image` is kept. After
            each step x becomes mask x + (1 - mask) (alpha image + sigma noise), after the last one
            mask x + (1 - mask) image. With strength 1, x starts as noise alone.
        timesteps : sequence of float, optional
            Explicit descending list of training times, instead of `steps`.
        sigmas : sequence of float, optional
            Explicit descending list of noise levels, instead of `steps`: see `Solver.table`.
        compat : {"diffusers"}, optional
            Reproduce that library where it departs from the papers (docs/conformance.md).
        callback : callable, optional
            Gets a `StepInfo` after each step, with the current estimate of x0; may cancel.
        progress : bool
            Show a progress bar on a terminal or in a notebook.
        **conditioning
            The model's named inputs, such as ``class_labels=[3, 7]``; one value serves all images.
            An input that has a null value may be left out.

        Returns
        -------
        Tensor
            (n, C, ...) float32, in the model's own range, [-1, 1] for images.

        Raises
        ------
        InvalidArgument
            An argument has a wrong value, shape or dtype; the message says which.
        NonFiniteOutput
            The model returned NaN or infinity; the message names the step.
        Cancelled
            The callback cancelled.
        """
        request = self.request(
            n,
            solver=solver,
            steps=steps,
            eta=eta,
            guidance_scale=guidance_scale,
            guidance_interval=guidance_interval,
            guidance_rescale=guidance_rescale,
            negative=negative,
            seed=seed,
            latents=latents,
            image=image,
            strength=strength,
            mask=mask,
            timesteps=timesteps,
            sigmas=sigmas,
            compat=compat,
            callback=callback,
            **conditioning,
        )
        return self._run(request, progress)

    def request(
        self,
        n: int | None = None,
        *,
        solver: str | Solver = "ddim",
        steps: int | None = None,
        eta: float | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
        guidance_interval: tuple[float, float] | None = None,
        guidance_rescale: float = 0.0,
        negative: Mapping[str, Any] | None = None,
        seed: int | Sequence[int] | None = None,
        latents: Tensor | None = None,
        image: Tensor | None = None,
        strength: float | None = None,
        mask: Tensor | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        compat: str | None = None,
        callback: Callback | None = None,
        **conditioning: Any,
    ) -> Request:
        """Check the arguments of `sample` and return what `engine` runs step by step.

        ``ticket = sampler.engine.submit(request)`` queues it, ``sampler.engine.advance(ticket)``
        takes one step of everything that runs, ``ticket.result()`` is what `sample` returns.
        Parameters and errors are those of `sample`.
        """
        inputs = arguments.conditioning(self.network, conditioning)
        unwanted = arguments.negative(self.network, negative)
        rescale = check_number("guidance_rescale", guidance_rescale, 0.0, 1.0)
        edit = Edit.check(self.network, image, mask, strength)
        if latents is not None:
            latents = arguments.tensor("latents", latents, self.network.sample_shape)
        values = inputs | {f"negative {name}": value for name, value in unwanted.items()}
        n = arguments.count(n, values | (edit.values if edit else {}), seed, latents)
        self.network.require_memory(n)
        table = self._tables.table(
            solver,
            steps=steps,
            eta=eta,
            timesteps=timesteps,
            sigmas=sigmas,
            compat=compat,
            edit=edit,
        )
        return Request(
            table=table,
            seeds=arguments.seeds(seed, n),
            images=arguments.image_numbers(seed, n),
            guidance=arguments.guidance_scales(self.network, guidance_scale, n, unwanted),
            conditioning=arguments.for_all(inputs, n),
            negative=arguments.for_all(unwanted, n),
            latents=latents,
            start=edit.start(table, n) if edit else None,
            blend=edit.blend(n) if edit else None,
            guided=arguments.guided_steps(guidance_interval, table),
            guidance_rescale=rescale,
            callback=callback,
        )

    def invert(
        self,
        images: Tensor,
        *,
        steps: int | None = None,
        compat: str | None = None,
        **conditioning: Any,
    ) -> Tensor:
        """Return the noise from which DDIM samples `images` (arXiv 2010.02502, sec. 4.3).

        ``sample(latents=invert(images, steps=k), steps=k)`` gives the images back, up to an error
        that vanishes as k grows: about as 1 / k, where the schedule clips no estimate.

        Parameters
        ----------
        images : Tensor
            (n, C, ...) clean data in the model's range.
        steps, compat, **conditioning
            As for `sample`; guidance is left out, which does not invert well.

        Returns
        -------
        Tensor
            (n, C, ...) float32 `latents`.
        """
        images = arguments.tensor("images", images, self.network.sample_shape)
        request = self.request(
            len(images), solver="ddim_inverse", steps=steps, compat=compat, seed=0, **conditioning
        )
        request.start = Start(images, 1.0, 0.0)
        forward = self._tables.table("ddim", steps=steps, compat=compat)
        return self._run(request, progress=False) / forward.init_noise_sigma

    def new_engine(self, max_rows: int | None = None, batching: Batching = EVERYONE) -> Engine:
        """Return an engine with memory and a queue of its own, for requests that `request` builds.

        Parameters
        ----------
        max_rows : int, optional
            Rows whose state it holds at once.
        batching : Batching
            Which of them share a step.
        """
        compiled = self._compiled
        with own_modes():
            return Engine(
                compiled.network,
                compiled.denoiser,
                compiled.batch_seconds,
                max_rows,
                batching=batching,
                batch_invariant=self._batch_invariant,
            )

    def with_schedule(self, schedule: Schedule) -> Sampler:
        """Return a sampler of the same network on another noise schedule; both share the engine."""
        other = copy.copy(self)
        other.schedule, other._tables = schedule, TableCache(schedule)
        return other

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the compiled model to one file, which `fastdiff.load` reads without compiling.

        The file holds the ONNX network, the schedule, the reference of the certificate, and what
        was measured and compiled here. On another machine `fastdiff.load` measures and compiles
        again; it never runs somebody else's compiled code unasked.

        Parameters
        ----------
        path : path-like
            Written under a temporary name and renamed, so it is never half.

        Raises
        ------
        InvalidArgument
            The model cannot be exported to ONNX.
        """
        save_artifact(self._compiled, Path(path))

    def update_weights(self, weights: nn.Module | Mapping[str, Tensor]) -> None:
        """Sample other weights from now on, as a training run makes them, without measuring again.

        Rows that have begun are finished with the old weights. The backends in use are built anew
        and certified against the new model; until that has succeeded, nothing changes.

        Parameters
        ----------
        weights : nn.Module or mapping of str to Tensor
            A module with the names and shapes of the one that was compiled, or its ``state_dict``.

        Raises
        ------
        WeightsError
            Names or shapes differ.
        Unavailable
            A backend cannot be built with the new weights, or strays too far from the new model.
        """
        compiled = update_weights(self._compiled, weights)
        self.engine.replace(compiled.denoiser, compiled.batch_seconds)
        self._adopt(compiled)

    def _adopt(self, compiled: Compiled) -> None:
        self._compiled, self.report = compiled, compiled.report
        self.network, self.schedule = compiled.network, compiled.schedule

    def _run(self, request: Request, progress: bool) -> Tensor:
        """Advance until `request` is done."""
        ticket = self.engine.submit(request)
        try:
            with sampling_progress(request.rows * request.steps, enabled=progress) as show:
                while not ticket.done:
                    self.engine.advance(ticket)
                    show(ticket.completed)
        except BaseException:
            self.engine.cancel(ticket)
            raise
        return ticket.result()


def _unpickled(
    data: bytes, schedule: Schedule, max_rows: int | None, batch_invariant: bool
) -> Sampler:
    sampler = Sampler(from_bytes(data), max_rows, batch_invariant=batch_invariant)
    return sampler.with_schedule(schedule)
