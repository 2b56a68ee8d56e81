"""The parts of a pipeline that run beside the engine, whatever types their weights have."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# What a pipeline calls with floating tensors that other parts have made.
_CALLED_WITH_FLOATS = {
    "vae": ("encode", "decode"),
    "vqvae": ("encode", "decode"),
    "safety_checker": ("forward",),
}


def in_their_types(pipe: Any) -> dict[str, Any]:
    """Return parts of a pipeline that take floating tensors of any type, by name.

    They share the weights of the pipeline's own, and round their inputs to the type of those:
    diffusers leaves latents in the type of the text encoder, which may be another.
    """
    parts: dict[str, Any] = {}
    for name, methods in _CALLED_WITH_FLOATS.items():
        part = getattr(pipe, name, None)
        dtype = getattr(part, "dtype", None)
        if isinstance(dtype, torch.dtype):  # a function in the place of a safety checker has none
            parts[name] = copy.copy(part)
            vars(parts[name]).update({m: _rounding(getattr(part, m), dtype) for m in methods})
    return parts


def _rounding(method: Callable[..., Any], dtype: torch.dtype) -> Callable[..., Any]:
    def called(*args: Any, **options: Any) -> Any:
        given = {name: _rounded(value, dtype) for name, value in options.items()}
        return method(*(_rounded(value, dtype) for value in args), **given)

    return called


def _rounded(value: Any, dtype: torch.dtype) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
