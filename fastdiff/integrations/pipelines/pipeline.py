"""The public face of a compiled pipeline."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fastdiff.compiling.report import Report
from fastdiff.errors import InvalidArgument
from fastdiff.integrations.pipelines.callbacks import look_on
from fastdiff.integrations.pipelines.components import in_their_types
from fastdiff.integrations.pipelines.families import Family, denoiser_of, paints_masked
from fastdiff.integrations.pipelines.loop import Loop
from fastdiff.integrations.pipelines.seeds import Seeds
from fastdiff.integrations.pipelines.stand_ins import DenoiserStandIn, watch_inpainting
from fastdiff.integrations.schedulers import read_scheduler
from fastdiff.networks import unwrapped
from fastdiff.sampler import Sampler
from fastdiff.sampling import Solver

_UNSUPPORTED = ("ip_adapter_image", "ip_adapter_image_embeds", "cross_attention_kwargs")
_CHANGES_WEIGHTS = ("lora", "adapter", "freeu", "fuse", "textual_inversion")


class CompiledPipeline:
    """A pipeline of diffusers whose denoising loop is fastdiff's engine.

    Called as the pipeline is, it returns what the pipeline returns; its attributes are the
    pipeline's own. Safe to call from several threads: their images share the denoiser's batches.

    Attributes
    ----------
    pipeline : DiffusionPipeline
        What was compiled.
    sampler : Sampler
        Its denoiser, to be sampled directly.
    scheduler
        The pipeline's. Another one takes effect at the next call, and nothing is compiled for it.
    """

    pipeline: Any
    sampler: Sampler

    def __init__(self, pipeline: Any, family: Family, sampler: Sampler) -> None:
        vars(self).update(
            pipeline=pipeline,
            sampler=sampler,
            _family=family,
            _samplers={},
            __signature__=inspect.signature(pipeline),
        )

    def __repr__(self) -> str:
        return f"<CompiledPipeline {type(self.pipeline).__name__}: {self.report.chosen.name}>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Generate images; arguments and result are those of the pipeline (docs/pipelines.md).

        Raises
        ------
        InvalidArgument
            An argument is not supported, or has a value that is not.
        NonFiniteOutput
            The denoiser returned NaN or infinity; the message names the step.
        """
        bound = vars(self)["__signature__"].bind(*args, **kwargs)
        bound.apply_defaults()
        arguments = bound.arguments
        self._check(arguments)
        self._fill_in_size(arguments)
        scheduler = self.pipeline.scheduler
        solver, sampler = self._solver(scheduler)
        arguments.pop("kwargs", None)  # checked to be empty
        with Loop(sampler, solver, self._family, scheduler, dict(arguments)) as loop:
            loop.seeds = Seeds(arguments["generator"])
            return type(self.pipeline).__call__(self._stand_in(loop, arguments), **arguments)

    @property
    def report(self) -> Report:
        """Backend chosen, and every candidate's measured rate and error."""
        return self.sampler.report

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what copy and pickle look for before there is a pipeline
            raise AttributeError(name)
        if name == "components":  # of which from_pipe, and whoever copies it, makes a pipeline
            raise InvalidArgument(
                "a pipeline made of this one's components would not be compiled; make it of "
                "pipe.pipeline, then compile it: "
                "fastdiff.compile(StableDiffusionImg2ImgPipeline.from_pipe(pipe.pipeline))"
            )
        value = getattr(self.pipeline, name)
        if callable(value) and (name == "to" or any(word in name for word in _CHANGES_WEIGHTS)):
            return _refused(name)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "scheduler":
            raise InvalidArgument(
                f"{name} cannot be set: a compiled pipeline takes another scheduler, and other "
                "weights by update_weights(); compile the pipeline again for anything else"
            )
        self._solver(value)
        self.pipeline.scheduler = value

    def update_weights(self, denoiser: nn.Module) -> None:
        """Take another model of the same architecture, as `Sampler.update_weights` does.

        Parameters
        ----------
        denoiser : nn.Module
            What the pipeline's ``unet`` or ``transformer`` is from now on.
        """
        weights = unwrapped(denoiser).state_dict()
        self.sampler.update_weights({f"model.{name}": value for name, value in weights.items()})
        setattr(self.pipeline, self._family.denoiser, denoiser)
        self._samplers.clear()  # they describe the network that was

    def _solver(self, scheduler: Any) -> tuple[Solver, Sampler]:
        """Return the solver that a scheduler is, and the sampler with its schedule."""
        solver, schedule = read_scheduler(scheduler)
        sampler = self._samplers.get(schedule)
        if sampler is None:  # two threads may both make it, and one is kept
            sampler = self._samplers[schedule] = self.sampler.with_schedule(schedule)
        return solver, sampler

    def _check(self, arguments: Mapping[str, Any]) -> None:
        """Refuse what the engine cannot do."""
        given = {name: arguments.get(name) for name in _UNSUPPORTED}
        for name, value in {**given, **arguments.get("kwargs", {})}.items():
            if value is not None:
                raise InvalidArgument(f"{name}= is not supported by a compiled pipeline")
        if arguments["output_type"] not in self._family.output_types:
            known = ", ".join(map(repr, self._family.output_types))
            raise InvalidArgument(
                f"output_type: expected {known}, got {arguments['output_type']!r}"
            )

    def _fill_in_size(self, arguments: dict[str, Any]) -> None:
        """Ask for the size that the denoiser was compiled for; refuse another."""
        _, *latent = self.sampler.network.sample_shape
        for name, size in zip(("height", "width"), latent, strict=True):
            if name in arguments:
                compiled_for = size * self.pipeline.vae_scale_factor
                given = arguments[name] or compiled_for
                if given != compiled_for:
                    raise InvalidArgument(
                        f"{name}: expected {compiled_for}, for which the pipeline was compiled, "
                        f"got {given}; pass sample_shape= to fastdiff.compile"
                    )
                arguments[name] = compiled_for

    def _stand_in(self, loop: Loop, arguments: dict[str, Any]) -> Any:
        """Return the pipeline for one call; change the arguments that the engine looks after."""
        pipe = copy.copy(self.pipeline)
        name, denoiser = self._family.denoiser, denoiser_of(pipe, self._family)
        _, *size = self.sampler.network.sample_shape
        stand_in = DenoiserStandIn(denoiser, (size[0], size[1]), loop)
        # Around the pipeline's own __setattr__, which would rewrite its shared configuration.
        vars(pipe).update(in_their_types(pipe), scheduler=loop.scheduler, **{name: stand_in})
        if "mask_image" in arguments and not paints_masked(denoiser):
            watch_inpainting(pipe, loop)
        if "guidance_rescale" in arguments:
            arguments["guidance_rescale"] = 0.0
        if arguments.get("callback_on_step_end") is not None:
            look_on(pipe, loop, arguments)
        return pipe


def _refused(name: str) -> Callable[..., Any]:
    def refuse(*args: Any, **options: Any) -> Any:
        raise InvalidArgument(
            f"{name}() would not reach the compiled engine; call it on the pipeline, then compile"
        )

    return refuse
