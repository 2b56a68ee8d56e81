"""Callbacks of a pipeline's steps, which look on and interrupt, but do not steer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument
from fastdiff.integrations.pipelines.loop import Loop

_ABSENT = object()


def look_on(pipe: Any, loop: Loop, arguments: dict[str, Any]) -> None:
    """Put a callback of a call in the place of ``callback_on_step_end`` that refuses to be steered.

    Parameters
    ----------
    pipe : DiffusionPipeline
        That of the call.
    loop : Loop
    arguments : dict
        Of the call, by name.
    """
    from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback

    callback = arguments["callback_on_step_end"]
    if isinstance(callback, (PipelineCallback, MultiPipelineCallbacks)):
        arguments["callback_on_step_end_tensor_inputs"] = callback.tensor_inputs

    def told(_: Any, step: int, timestep: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        before = dict(vars(pipe))
        given = {name: _copy(value) for name, value in tensors.items()}
        loop.leave()  # it may take long, or wait for another call
        outputs = callback(pipe, step, timestep, given) or {}
        if loop.ended or pipe.interrupt:
            loop.enter()
        changed = [
            name
            for name, value in {**given, **outputs}.items()
            if not _same(value, tensors.get(name, _ABSENT))
        ]
        changed += [
            name
            for name, value in vars(pipe).items()
            if name != "_interrupt" and before.get(name, _ABSENT) is not value
        ]
        if changed:
            raise InvalidArgument(
                "callback_on_step_end may look on and interrupt; it changed " + ", ".join(changed)
            )
        return {}

    arguments["callback_on_step_end"] = told


def _copy(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _same(value: Any, other: Any) -> bool:
    if not (isinstance(value, Tensor) and isinstance(other, Tensor)):
        return value is other
    alike = (value.dtype, value.device) == (other.dtype, other.device)
    return alike and torch.equal(value, other)
