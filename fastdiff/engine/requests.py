"""What a client asks of the engine, and what it gets back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastdiff.errors import Cancelled
from fastdiff.sampling import PackedTable

Callback = Callable[["StepInfo"], None]


@dataclass(frozen=True, eq=False)
class Start:
    """x starts as alpha image + sigma noise, instead of as noise alone.

    Attributes
    ----------
    images : Tensor
        (n, C, ...) float32 clean data.
    alpha, sigma : float
        The noise level.
    """

    images: Tensor
    alpha: float
    sigma: float


@dataclass(frozen=True, eq=False)
class Blend:
    """After every step, images are put back where a mask keeps them, noised to the step's level.

    Attributes
    ----------
    images : Tensor
        (n, C, ...) float32 clean data.
    mask : Tensor
        (n, C, ...) float32 in [0, 1]; 1 where to paint anew.
    """

    images: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class GuidedSteps:
    """At which steps guidance applies; at the others the conditional branch alone is evaluated.

    Attributes
    ----------
    on : ndarray
        (steps,) bool.
    """

    on: npt.NDArray[np.bool_]

    @cached_property
    def until(self) -> npt.NDArray[np.int64]:
        """For each step, the first later one that differs; `steps` if there is none, (steps,)."""
        steps = len(self.on)
        changes = np.append(np.flatnonzero(self.on[1:] != self.on[:-1]) + 1, steps)
        return changes[np.searchsorted(changes, np.arange(steps), side="right")]


@dataclass(frozen=True)
class Passes:
    """The extra work of a step, done if any of its rows needs it.

    Attributes
    ----------
    observed : bool
        The estimates of x0 are kept for a callback.
    rescaled, thresholded : bool
        Before the step: guidance rescale, dynamic thresholding.
    blended : bool
        After it: what is known of the image is put back.
    """

    observed: bool = False
    rescaled: bool = False
    thresholded: bool = False
    blended: bool = False

    def __or__(self, other: Passes) -> Passes:
        """Return what both need together."""
        return Passes(
            self.observed or other.observed,
            self.rescaled or other.rescaled,
            self.thresholded or other.thresholded,
            self.blended or other.blended,
        )

    @cached_property
    def adapted(self) -> bool:
        """Whether rows need table rows of their own."""
        return self.rescaled or self.thresholded


@dataclass(eq=False)
class Request:
    """n images to be sampled by one solver table.

    Attributes
    ----------
    table : PackedTable
        The solver.
    seeds, images : ndarray
        (n,) uint64: the noise of image i is a pure function of ``seeds[i]`` and ``images[i]``.
    guidance : ndarray
        (n,) float32 guidance scales; 1 evaluates the conditional branch alone.
    conditioning : mapping of str to Tensor
        (n, ...) each; an absent name takes its null value.
    negative : mapping of str to Tensor
        (n, ...) each: what the unconditional branch gets; an absent name takes its null value.
    latents : Tensor or None
        (n, C, ...) float32 standard normal noise to start from instead of the seeds' own.
    start : Start or None
        Data to start from.
    blend : Blend or None
        Data to keep.
    guided : GuidedSteps or None
        When guidance applies; None for always.
    guidance_rescale : float
        phi in [0, 1] (arXiv 2305.08891, sec. 3.4); 0 for none.
    callback : callable or None
        Called with a `StepInfo` after each step.
    """

    table: PackedTable
    seeds: npt.NDArray[np.uint64]
    images: npt.NDArray[np.uint64]
    guidance: npt.NDArray[np.float32]
    conditioning: Mapping[str, Tensor] = field(default_factory=dict)
    negative: Mapping[str, Tensor] = field(default_factory=dict)
    latents: Tensor | None = None
    start: Start | None = None
    blend: Blend | None = None
    guided: GuidedSteps | None = None
    guidance_rescale: float = 0.0
    callback: Callback | None = None

    @property
    def rows(self) -> int:
        """Number of images."""
        return len(self.seeds)

    @property
    def steps(self) -> int:
        """Model evaluations per image, guidance not counted."""
        return len(self.table.rows)

    @cached_property
    def passes(self) -> Passes:
        """What its steps need."""
        return Passes(
            observed=self.callback is not None,
            rescaled=self.guidance_rescale > 0,
            thresholded=self.table.thresholding is not None,
            blended=self.blend is not None,
        )


@dataclass
class StepInfo:
    """What a callback sees after a step.

    Attributes
    ----------
    step : int
        Evaluations that these images have behind them, 1 to `total`.
    total : int
        Evaluations until they are done.
    images : ndarray
        (k,) int: which images of the request took this step; all of them unless the request is
        larger than the engine's capacity.
    denoised : Tensor
        (k, C, ...) float32: the current estimate of x0, a copy.
    read_state : callable
        Returns a copy of x after the step, (k, C, ...) float32; only while the callback runs.
    """

    step: int
    total: int
    images: npt.NDArray[np.int64]
    denoised: Tensor
    read_state: Callable[[], Tensor]
    cancelled: bool = False

    def cancel(self) -> None:
        """Stop the request after this step; its client gets `fastdiff.errors.Cancelled`."""
        self.cancelled = True


class Ticket:
    """The engine's promise for one request.

    Attributes
    ----------
    completed : int
        Row steps taken so far, of ``request.rows * request.steps``.
    done : bool
        Whether `result` returns or raises at once.
    """

    def __init__(self, request: Request, sample_shape: tuple[int, ...]) -> None:
        self.request = request
        self.completed = 0
        self.done = False
        self._remaining = request.rows
        self._error: BaseException | None = None
        self._samples = torch.empty(request.rows, *sample_shape, dtype=torch.float32)

    def result(self) -> Tensor:
        """Return the samples, (n, C, ...) float32, or raise what went wrong."""
        if self._error is not None:
            raise self._error
        if not self.done:
            raise Cancelled("the request has not been run to its end")
        return self._samples

    def deliver(self, indices: list[int], samples: Tensor) -> None:
        """Take finished images."""
        self._samples[indices] = samples
        self._remaining -= len(indices)
        self.done = self._remaining == 0

    def fail(self, error: BaseException) -> None:
        """End the request with `error`."""
        self._error = error
        self.done = True
