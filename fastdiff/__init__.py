"""fastdiff: a trained diffusion denoiser in, the fastest correct sampler of this machine out.

>>> import fastdiff
>>> sampler = fastdiff.compile("digits")
>>> images = sampler.sample(class_labels=[3, 7], guidance_scale=1.5, seed=0)
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastdiff import errors
    from fastdiff.compiler import compile, load
    from fastdiff.engine import StepInfo
    from fastdiff.networks import Conditioning
    from fastdiff.sampler import Sampler
    from fastdiff.sampling import Schedule, get_solver, list_solvers

__version__ = "0.1.0"

__all__ = [
    "Conditioning",
    "Sampler",
    "Schedule",
    "StepInfo",
    "compile",
    "errors",
    "get_solver",
    "list_solvers",
    "load",
]

_HOMES = {
    "Conditioning": "networks",
    "Sampler": "sampler",
    "Schedule": "sampling",
    "StepInfo": "engine",
    "compile": "compiler",
    "get_solver": "sampling",
    "list_solvers": "sampling",
    "load": "compiler",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> object:
    """Import a public name when it is first used, so that the sampling room stays free of torch."""
    if name in _HOMES:
        return getattr(importlib.import_module(f"fastdiff.{_HOMES[name]}"), name)
    if name == "errors":
        return importlib.import_module("fastdiff.errors")
    raise AttributeError(f"module 'fastdiff' has no attribute {name!r}")
