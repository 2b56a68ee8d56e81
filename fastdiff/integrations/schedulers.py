"""Scheduler objects of diffusers as solvers and schedules.

A scheduler is what its class makes of its configuration, until somebody derives from the class or
sets attributes by hand. Betas that were changed are read from the object; whatever else its steps
would compute in another way is refused.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.sampling import Schedule, Solver, known_schedulers, solver_from_config
from fastdiff.sampling.scheduler_keys import KEYS

# What steps read besides the configuration and the betas. The times and levels of a run are not
# among them: the next `set_timesteps` makes them anew, from what is named here.
_READ_BY_STEPS = (
    "disable_corrector",
    "final_alpha_cumprod",
    "init_noise_sigma",
    "initial_alpha_cumprod",
    "one",
    "pndm_order",
    "predict_x0",
    "sigma_max",
    "sigma_min",
    "solver_p",
    "use_beta_sigmas",
    "use_exponential_sigmas",
    "use_karras_sigmas",
    "variance_type",
    "_shift",
)


def is_scheduler(value: object) -> bool:
    """Whether `value` is a scheduler object of diffusers, or of a class derived from one."""
    bases = type(value).__mro__
    return any(base.__name__ == "SchedulerMixin" and _is_of_diffusers(base) for base in bases)


def read_scheduler(scheduler: Any) -> tuple[Solver, Schedule]:
    """Return what a scheduler object of diffusers does.

    Raises
    ------
    UnknownName
        No solver is of its class.
    InvalidArgument
        A setting is not supported, or it does something else than its class does with its
        configuration; the message names it.
    """
    config = _configuration(scheduler)
    return solver_from_config(config), Schedule.from_config(config)


def schedule_of(scheduler: Any) -> Schedule:
    """Return the noise schedule of a scheduler object, also of one that no solver runs.

    Errors are those of `read_scheduler`.
    """
    return Schedule.from_config(_configuration(scheduler))


def _class_of_diffusers(scheduler: object) -> type | None:
    """Return the class of diffusers that a scheduler is of or derived from, if there is one."""
    if not is_scheduler(scheduler):
        return None
    first = next(base for base in type(scheduler).__mro__ if _is_of_diffusers(base))
    return None if first.__name__.endswith("Mixin") else first


def _is_of_diffusers(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "diffusers"


def _configuration(scheduler: Any) -> dict[str, Any]:
    """Return the configuration of an object's class, with the betas that the object holds."""
    known = _class_of_diffusers(scheduler)
    if known is None:
        kind = type(scheduler)
        name = f"{kind.__module__}.{kind.__qualname__}"
        raise UnknownName("scheduler class", name, known_schedulers())
    _refuse_own_code(scheduler, known)
    reads = inspect.signature(known).parameters
    config = {key: value for key, value in scheduler.config.items() if key in reads}
    changed = _changed_betas(scheduler, _made(known, config))
    config |= {key: value for key, value in changed.items() if key in reads}
    _refuse_own_values(scheduler, _made(known, config))
    # Keys of the class that it was made from matter to a caller who asks for another solver.
    borrowed = {key: value for key, value in scheduler.config.items() if key in KEYS}
    return {**borrowed, **config, "_class_name": known.__name__}


def _made(known: type, config: Mapping[str, Any]) -> Any:
    """Return a scheduler as its class makes it.

    Some classes take a third of a second, so it is kept, unless JSON cannot hold its configuration.
    """
    try:
        text = json.dumps(config, default=lambda array: array.tolist())
    except AttributeError:
        return known(**config)
    return _made_of_json(known, text)


@functools.lru_cache(maxsize=16)
def _made_of_json(known: type, config: str) -> Any:
    return known(**json.loads(config))


def _refuse_own_code(scheduler: Any, known: type) -> None:
    """Refuse methods that are not those of the class, be they derived, set or patched in."""
    for name, member in vars(known).items():
        code = _code(member)
        if code is None or name == "__init__":
            continue
        own = name in vars(scheduler) or inspect.getattr_static(type(scheduler), name) is not member
        if own or code.__globals__["__name__"] != known.__module__:
            raise InvalidArgument(
                f"{type(scheduler).__name__}.{name} is not that of {known.__name__}, and no "
                f"solver is known to compute the same; use {known.__name__} itself, or write a "
                "solver (docs/solvers.md)"
            )


def _code(member: object) -> Any:
    """Return the function of a method or property, or None for anything else."""
    function = member.fget if isinstance(member, property) else member
    return function if inspect.isfunction(function) else None


def _changed_betas(scheduler: Any, fresh: Any) -> dict[str, Any]:
    """Return settings with the betas of an object that are not those of its configuration.

    Raises
    ------
    InvalidArgument
        Its betas were changed, but not their products, which are what steps read.
    """
    if not hasattr(fresh, "alphas_cumprod"):
        return {}
    if _same(scheduler.alphas_cumprod, fresh.alphas_cumprod, rtol=0.0):
        if not _same(scheduler.betas, fresh.betas):
            raise InvalidArgument(
                "the scheduler's betas were changed, but not alphas_cumprod, which is what its "
                "steps read; give trained_betas= to its class instead"
            )
        return {}
    products = scheduler.alphas_cumprod.detach().double().cpu()
    before = torch.cat([products.new_ones(1), products[:-1]])
    betas = (1.0 - products / before).tolist()
    # Betas that end at zero SNR are left as they are by the rescaling.
    return {"trained_betas": betas, "rescale_betas_zero_snr": betas[-1] == 1.0}


def _refuse_own_values(scheduler: Any, fresh: Any) -> None:
    names = [name for name in _READ_BY_STEPS if name in vars(fresh)] + ["order"]
    if fresh.config.get("lambda_min_clipped") not in (None, -math.inf):
        names.append("lambda_t")  # where the times are cut off
    for name in names:
        given, expected = getattr(scheduler, name, None), getattr(fresh, name)
        if not _same(given, expected):
            kind = type(fresh).__name__
            raise InvalidArgument(
                f"the scheduler's {name} is {given}, and its configuration makes it {expected}; "
                f"make another one by {kind}.from_config(scheduler.config, ...)"
            )


def _same(one: object, other: object, rtol: float = 1e-5) -> bool:
    """Whether two values are equal; numbers up to the rounding of float32."""
    if not all(isinstance(value, (Tensor, int, float)) for value in (one, other)):
        return bool(one == other)
    left, right = (torch.as_tensor(value).double().cpu() for value in (one, other))
    return left.shape == right.shape and torch.allclose(left, right, rtol=rtol, atol=0.0)
