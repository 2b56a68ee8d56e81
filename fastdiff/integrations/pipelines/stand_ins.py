"""What a pipeline's loop gets for one call, in the place of its scheduler and its denoiser."""

from __future__ import annotations

import copy
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn

from fastdiff.integrations.pipelines.families import paints_masked
from fastdiff.sampler.editing import less_than_one_step


class Course(Protocol):
    """What the stand-ins tell of a call: see `fastdiff.integrations.pipelines.loop.Loop`."""

    rows: int
    inputs: dict[str, Tensor]
    image: Tensor | None
    noise: Tensor | None
    mask: Tensor | None
    strength: float

    def turn(self, state: Tensor, *, last: bool) -> Tensor:
        """Take a step."""
        ...


class SchedulerStandIn:
    """The scheduler of one call: the times of `scheduler`, and the steps of the engine.

    Attributes
    ----------
    scales_input : bool
        Whether the loop scales the denoiser's input, and that alone.
    """

    def __init__(self, scheduler: Any, course: Course) -> None:
        self._scheduler, self._course = copy.copy(scheduler), course
        self._turn = 0
        self.scales_input = False
        self._scaled: Tensor | None = None
        self.set_timesteps = self._scheduler.set_timesteps  # pipelines look at its signature

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The scheduler's: pipelines ask for it, and name it in their errors."""
        return type(self._scheduler)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    @property
    def turns_left(self) -> int:
        """Turns of the loop from the current one on."""
        return 1 + len(self._scheduler.timesteps) - self._turn

    def set_begin_index(self, begin_index: int = 0) -> None:
        """Start at a later time.

        Raises
        ------
        InvalidArgument
            No step is left.
        """
        steps = self._scheduler.num_inference_steps
        if begin_index // self._scheduler.order >= steps:
            raise less_than_one_step(self._course.strength, steps)
        self._turn = begin_index
        if hasattr(self._scheduler, "set_begin_index"):
            self._scheduler.set_begin_index(begin_index)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        """Leave the scaling to the engine; what comes back is an object of its own."""
        self._scaled = sample.view_as(sample)
        return self._scaled

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, **options: Any
    ) -> _PreviousSample:
        """Have the engine take a step."""
        self._turn += 1  # counted from 1
        self.scales_input = self._scaled is not None and sample is not self._scaled
        self._scheduler._step_index = self._turn  # to whose level `add_noise` goes from now on
        return _PreviousSample(self._course.turn(sample, last=self.turns_left == 1))


class DenoiserStandIn(nn.Module):
    """The denoiser of one call: notes its inputs."""

    def __init__(self, model: Any, size: tuple[int, int], course: Course) -> None:
        super().__init__()
        self.model, self._course = model, course
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
        self._course.rows, self._course.inputs = len(x), known
        return _Prediction(x.new_zeros(()).expand(len(x), channels, *x.shape[2:]))


def watch_inpainting(pipe: Any, course: Course) -> None:
    """Note what a pipeline that inpaints with a plain U-Net prepares for its loop.

    Such a loop blends the known part in by itself, so neither partner is told of it.
    """
    prepare_latents, prepare_mask = pipe.prepare_latents, pipe.prepare_mask_latents

    def noting_image(*args: Any, **options: Any) -> Any:
        prepared = prepare_latents(*args, **options)
        _, course.noise, course.image = prepared
        return prepared

    def noting_mask(*args: Any, **options: Any) -> Any:
        prepared = prepare_mask(*args, **options)
        course.mask = prepared[0]
        return prepared

    vars(pipe).update(prepare_latents=noting_image, prepare_mask_latents=noting_mask)


class _PreviousSample(NamedTuple):
    """What a scheduler's step returns, as a tuple and by name."""

    prev_sample: Tensor


class _Prediction(NamedTuple):
    """What a denoiser returns, as a tuple and by name."""

    sample: Tensor
