"""The public face of a compiled model."""

from __future__ import annotations

import operator
import os
import secrets
import threading
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.runtime.artifact import save_artifact
from fastdiff.runtime.compiled import Compiled
from fastdiff.runtime.engine import Engine
from fastdiff.runtime.progress import ProgressBar
from fastdiff.runtime.requests import Callback, Request
from fastdiff.sampling import PackedTable, Solver, get_solver

_MAX_TABLES = 64
_MAX_SEED = (1 << 64) - 1


class Sampler:
    """Samples images from a compiled denoiser; made by `fastdiff.compile`.

    Safe to use from several threads: their images share the denoiser's batches.

    Attributes
    ----------
    report : Report
        Engine chosen, every candidate's measured rate and its error against the float32 model.
    schedule : Schedule
        The noise schedule that the model was trained with.
    """

    def __init__(self, compiled: Compiled, max_rows: int | None = None) -> None:
        self._compiled = compiled
        self.network, self.schedule = compiled.network, compiled.schedule
        self.report = compiled.report
        self.engine = Engine(compiled.network, compiled.denoiser, compiled.batch_seconds, max_rows)
        self._tables: OrderedDict[object, PackedTable] = OrderedDict()
        self._tables_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Sampler {self.network.name}: {self.report.chosen.name}>"

    def sample(
        self,
        n: int | None = None,
        *,
        solver: str | Solver = "ddim",
        steps: int | None = None,
        eta: float | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
        seed: int | Sequence[int] | None = None,
        latents: Tensor | None = None,
        timesteps: Sequence[float] | None = None,
        compat: str | None = None,
        callback: Callback | None = None,
        progress: bool = False,
        **conditioning: Any,
    ) -> Tensor:
        """Sample images.

        Parameters
        ----------
        n : int, optional
            Number of images; taken from the conditioning, the seeds or the latents if left out.
        solver : str or Solver
            Name (see `fastdiff.list_solvers`), or a solver object with options of its own.
        steps : int, optional
            Number of steps, 1 to the schedule's ``num_train_timesteps``; 50 if `timesteps` is not
            given either.
        eta : float, optional
            Noise of DDIM, 0 (deterministic) to 1 (arXiv 2010.02502, eq. 16).
        guidance_scale : float or sequence of float
            Classifier-free guidance ``m_u + g (m_c - m_u)`` (arXiv 2207.12598), for all images or
            one each; 1 is none.
        seed : int or sequence of int, optional
            One seed, 0 to 2^64 - 1, from which every image draws its own noise by its number; or
            one seed per image. An image depends on its seed and number alone: not on the batch,
            the order or the machine. None draws a fresh one.
        latents : Tensor, optional
            (n, C, H, W) standard normal x_T to start from.
        timesteps : sequence of float, optional
            Explicit descending list of training times, instead of `steps`.
        compat : {"diffusers"}, optional
            Reproduce that library where it departs from the papers (docs/conformance.md).
        callback : callable, optional
            Gets a `StepInfo` after each step, with the current estimate of x0; may cancel.
        progress : bool
            Show a progress bar on the terminal.
        **conditioning
            The model's named inputs, such as ``class_labels=[3, 7]``; one value serves all images.
            An input that has a null value may be left out.

        Returns
        -------
        Tensor
            (n, C, H, W) float32, in the model's own range, [-1, 1] for images.

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
            seed=seed,
            latents=latents,
            timesteps=timesteps,
            compat=compat,
            callback=callback,
            **conditioning,
        )
        ticket = self.engine.submit(request)
        try:
            with ProgressBar(request.rows * request.steps, enabled=progress) as bar:
                while not ticket.done:
                    self.engine.advance(ticket)
                    bar.update(ticket.completed)
        except BaseException:
            self.engine.cancel(ticket)
            raise
        return ticket.result()

    def request(
        self,
        n: int | None = None,
        *,
        solver: str | Solver = "ddim",
        steps: int | None = None,
        eta: float | None = None,
        guidance_scale: float | Sequence[float] = 1.0,
        seed: int | Sequence[int] | None = None,
        latents: Tensor | None = None,
        timesteps: Sequence[float] | None = None,
        compat: str | None = None,
        callback: Callback | None = None,
        **conditioning: Any,
    ) -> Request:
        """Check the arguments of `sample` and return what `engine` runs step by step.

        ``ticket = sampler.engine.submit(request)`` queues it, ``sampler.engine.advance(ticket)``
        takes one step of everything that runs, ``ticket.result()`` is what `sample` returns.
        Parameters and errors are those of `sample`.
        """
        inputs = self._conditioning(conditioning)
        if latents is not None:
            latents = self._latents(latents)
        n = _count(n, inputs, seed, latents)
        return Request(
            table=self._table(solver, steps, eta, timesteps, compat),
            seeds=_seeds(seed, n),
            images=_images(seed, n),
            guidance=self._guidance(guidance_scale, n),
            conditioning={k: v.expand(n, *v.shape[1:]).contiguous() for k, v in inputs.items()},
            latents=latents,
            callback=callback,
        )

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

    def _table(
        self,
        solver: str | Solver,
        steps: int | None,
        eta: float | None,
        timesteps: Sequence[float] | None,
        compat: str | None,
    ) -> PackedTable:
        """Build the solver's table, or take it from the last few."""
        chosen = get_solver(solver, **({} if eta is None else {"eta": eta}))
        if steps is None and timesteps is None:
            steps = min(50, self.schedule.num_train_timesteps)
        times = None if timesteps is None else tuple(float(t) for t in timesteps)
        key = (chosen, steps, times, compat)
        with self._tables_lock:
            if key not in self._tables:
                table = chosen.table(self.schedule, steps=steps, timesteps=times, compat=compat)
                self._tables[key] = table.pack()
                if len(self._tables) > _MAX_TABLES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(key)
            return self._tables[key]

    def _conditioning(self, given: dict[str, Any]) -> dict[str, Tensor]:
        known = self.network.conditioning
        for name in given:
            if name not in known:
                takes = ", ".join(known) or "none"
                raise InvalidArgument(f"sample() got {name!r}; this model's conditioning: {takes}")
        for name, spec in known.items():
            if given.get(name) is None and spec.null is None:
                raise InvalidArgument(f"this model needs {name}=, one value per image")
        return {k: known[k].check(k, v) for k, v in given.items() if v is not None}

    def _latents(self, latents: Tensor) -> Tensor:
        tensor = torch.as_tensor(latents).detach().cpu()
        if tensor.ndim != 4 or tuple(tensor.shape[1:]) != self.network.sample_shape:
            shape = ", ".join(map(str, self.network.sample_shape))
            raise InvalidShape(f"latents: expected (n, {shape}), got {tuple(tensor.shape)}")
        return tensor.float()

    def _guidance(self, scale: float | Sequence[float], n: int) -> npt.NDArray[np.float32]:
        scales: npt.NDArray[np.float32] = np.asarray(scale, np.float32)
        if scales.ndim > 1 or (scales.ndim == 1 and len(scales) != n):
            raise InvalidShape(
                f"guidance_scale: expected a number or {n} of them, got shape {scales.shape}"
            )
        if not np.isfinite(scales).all():
            raise InvalidArgument(f"guidance_scale: expected finite numbers, got {scale}")
        if (scales != 1).any() and not self.network.guidable:
            raise InvalidArgument(
                "guidance_scale other than 1 needs a conditional model with a null value: "
                "pass null_class= to fastdiff.compile"
            )
        return np.array(np.broadcast_to(scales, n))


def _per_image(seed: Any) -> list[Any] | None:
    """Return seeds given one per image as a list (any sequence, array or tensor); else None."""
    return list(seed) if hasattr(seed, "__len__") else None


def _count(
    n: int | None,
    inputs: dict[str, Tensor],
    seed: int | Sequence[int] | None,
    latents: Tensor | None,
) -> int:
    """Return the number of images on which all arguments agree."""
    lengths = {name: len(value) for name, value in inputs.items() if len(value) != 1}
    if latents is not None:
        lengths["latents"] = len(latents)
    own_seeds = _per_image(seed)
    if own_seeds is not None:
        lengths["seed"] = len(own_seeds)
    if n is not None:
        if isinstance(n, bool) or not isinstance(n, int) or n < 0:
            raise InvalidArgument(f"n: expected a count of images, got {n!r}")
        lengths["n"] = n
    if not lengths:
        if not inputs:
            raise InvalidArgument("say how many images: sample(16), or give conditioning")
        return 1
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise InvalidShape(f"the arguments disagree on the number of images: {said}")
    return next(iter(lengths.values()))


def _seeds(seed: int | Sequence[int] | None, n: int) -> npt.NDArray[np.uint64]:
    if seed is None:
        seed = secrets.randbits(64)
    values = _per_image(seed)
    return np.array(
        [_seed(v) for v in values] if values is not None else [_seed(seed)] * n, np.uint64
    )


def _seed(value: Any) -> int:
    """Return `value` as an int if it is a seed, of whatever integer type."""
    try:
        number = operator.index(value)
    except TypeError:
        number = -1
    if isinstance(value, bool) or not 0 <= number <= _MAX_SEED:
        raise InvalidArgument(f"seed: expected an integer from 0 to 2^64 - 1, got {value!r}")
    return number


def _images(seed: int | Sequence[int] | None, n: int) -> npt.NDArray[np.uint64]:
    """Return image numbers: 0, 1, ... under a common seed; 0 for all with seeds of their own."""
    own_seeds = _per_image(seed) is not None
    return np.zeros(n, np.uint64) if own_seeds else np.arange(n, dtype=np.uint64)
