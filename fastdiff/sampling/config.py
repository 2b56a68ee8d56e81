"""Reading the ``scheduler_config.json`` that diffusers writes.

Every key of a configuration is either understood, known to leave the result alone, or refused:
a key that is silently dropped would give other images than the ones the model was made for.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdiff.errors import InvalidArgument

CONFIG_NAME = "scheduler_config.json"
MAX_CONFIG_BYTES = 1 << 20

# Keys that change the result in a way no table here reproduces, with the values that switch them
# off. Anything else in such a key is refused.
_INERT_VALUES: dict[str, tuple[Any, ...]] = {
    "thresholding": (False, None),
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "use_flow_sigmas": (False, None),
    "use_dynamic_shifting": (False, None),
    "interpolation_type": ("linear", None),
    "timestep_type": ("discrete", None),
    "lambda_min_clipped": (float("-inf"), None),
}

# Keys of one solver, or details of a feature refused above: the noise schedule does not need them.
SOLVER_KEYS = frozenset(
    {
        "algorithm_type",
        "disable_corrector",
        "dynamic_thresholding_ratio",
        "euler_at_final",
        "flow_shift",
        "lower_order_final",
        "predict_x0",
        "sample_max_value",
        "sigma_max",
        "sigma_min",
        "skip_prk_steps",
        "solver_order",
        "solver_p",
        "solver_type",
        "time_shift_type",
    }
)

# A file may leave out what equals its class's default, and these classes default to linspace.
_LINSPACE_CLASSES = frozenset(
    {
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EulerAncestralDiscreteScheduler",
        "EulerDiscreteScheduler",
        "HeunDiscreteScheduler",
        "KDPM2AncestralDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "LMSDiscreteScheduler",
        "UniPCMultistepScheduler",
    }
)


def read_config(source: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Any]:
    """Return a scheduler configuration as a dict.

    Parameters
    ----------
    source : mapping or path
        A configuration such as ``scheduler.config``, a JSON file, or a folder that holds
        ``scheduler_config.json`` itself or under ``scheduler/``.

    Raises
    ------
    InvalidArgument
        If there is no such file, it is larger than `MAX_CONFIG_BYTES`, or it is not a JSON object.
    """
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    if path.is_dir():
        path = next(
            (c for c in (path / CONFIG_NAME, path / "scheduler" / CONFIG_NAME) if c.is_file()),
            path / CONFIG_NAME,
        )
    if not path.is_file():
        raise InvalidArgument(
            f"no scheduler configuration at {path}; give a mapping, a JSON file, or a folder with "
            f"{CONFIG_NAME}"
        )
    size = path.stat().st_size
    if size > MAX_CONFIG_BYTES:
        raise InvalidArgument(
            f"{path} is {size} bytes; a scheduler configuration has at most {MAX_CONFIG_BYTES}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise InvalidArgument(
            f"{path}: expected a JSON object of settings, got {type(config).__name__}"
        )
    return config


def schedule_settings(config: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """Return the settings of `config` that are among `fields`, the fields of a schedule.

    Raises
    ------
    InvalidArgument
        If a key would change the result and is not supported, or is not known at all.
    """
    settings: dict[str, Any] = {}
    for key, value in config.items():
        if key.startswith("_") or key in SOLVER_KEYS:
            continue
        if key in fields:
            if value is not None:  # null is how a configuration says "the default"
                settings[key] = value
        elif key not in _INERT_VALUES:
            known = sorted(fields | SOLVER_KEYS | _INERT_VALUES.keys())
            raise InvalidArgument(f"unknown scheduler setting {key!r}; known: {', '.join(known)}")
        elif not _is_inert(value, _INERT_VALUES[key]):
            raise InvalidArgument(
                f"scheduler setting {key}={value!r} changes the samples and is not supported; "
                f"set it to {_INERT_VALUES[key][0]!r} or leave it out"
            )
    if config.get("_class_name") in _LINSPACE_CLASSES:
        settings.setdefault("timestep_spacing", "linspace")
    return settings


def _is_inert(value: object, inert: tuple[Any, ...]) -> bool:
    return any(value is item or (type(value) is type(item) and value == item) for item in inert)
