"""Reading the ``scheduler_config.json`` that diffusers writes.

Every key of a configuration is either read, known not to change the result, or refused. If a key
were dropped silently, the images could differ from those that the model was made for.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastdiff.errors import InvalidArgument
from fastdiff.sampling.scheduler_keys import DEFAULTS, KEYS, READS

CONFIG_NAME = "scheduler_config.json"
MAX_CONFIG_BYTES = 1 << 20

# Keys that change the result in a way that no table here reproduces, each with the values that
# switch it off. Any other value of such a key is refused.
_INERT_VALUES: dict[str, tuple[Any, ...]] = {
    "interpolation_type": ("linear",),
    "invert_sigmas": (False,),
    "snr_shift_scale": (1.0,),
}

_SAME_STEPS = {
    "DDIMParallelScheduler": "DDIMScheduler",
    "DDPMParallelScheduler": "DDPMScheduler",
}
# Only the solvers ddpm and ddim read these keys. They are kept whatever class the configuration
# names, for a caller who asks for one of the two.
_OF_DDPM_AND_DDIM = {"clip_sample", "clip_sample_range", "set_alpha_to_one", "variance_type"}
_INVERSE = "DDIMInverseScheduler"
_EDM_CLASSES = ("EDMEulerScheduler", "EDMDPMSolverMultistepScheduler")


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
        return _canonical(dict(source))
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
    return _canonical(config)


def _canonical(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a configuration means for the class that it names, in today's keys.

    A class that takes the same steps as another is replaced by that one. Keys whose value is null
    are left out, and so are keys that only other classes read: a configuration keeps the keys of
    the class that it was made from.
    """
    name = config.get("_class_name")
    if not isinstance(name, (str, type(None))):  # a list names a class in a file of its own
        raise InvalidArgument(f"_class_name: expected the name of a class, got {name!r}")
    config = _without_old_keys({key: value for key, value in config.items() if value is not None})
    if name is None:
        return config
    name = _SAME_STEPS.get(name, name)
    foreign = KEYS - READS.get(name, KEYS) - _OF_DDPM_AND_DDIM
    said = {key: value for key, value in config.items() if key not in foreign}
    return {**said, "_class_name": name}


def _without_old_keys(config: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration without the keys that only older versions of diffusers read.

    Raises
    ------
    InvalidArgument
        An old key contradicts a key of today.
    """
    config.pop("tensor_format", None)  # whether to compute in NumPy or in torch
    if "timestep_values" in config:
        raise InvalidArgument(
            "timestep_values is not read any more; leave it out, and give timesteps= when sampling"
        )
    at_start = config.pop("set_alpha_to_zero", None)
    if at_start is not None and config.get("_class_name", _INVERSE) == _INVERSE:
        config["set_alpha_to_one"] = at_start
    if config.pop("predict_epsilon", True):
        return config
    if config.setdefault("prediction_type", "sample") == "epsilon":
        raise InvalidArgument(
            "predict_epsilon=False and prediction_type='epsilon' contradict each other; leave out "
            "the one that is wrong"
        )
    return config


def schedule_settings(config: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """Return the settings of `config` that are among `fields`, the fields of a schedule.

    Raises
    ------
    InvalidArgument
        If a key would change the result and is not supported, or is not known at all.
    """
    settings: dict[str, Any] = dict(DEFAULTS.get(str(config.get("_class_name")), {}))
    for key, value in config.items():
        if key in fields:
            settings[key] = value
        elif key in _INERT_VALUES:
            if not _is_inert(value, _INERT_VALUES[key]):
                raise InvalidArgument(
                    f"scheduler setting {key}={value!r} changes the samples and is not supported; "
                    f"set it to {_INERT_VALUES[key][0]!r} or leave it out"
                )
        elif key not in KEYS and not key.startswith("_"):
            known = ", ".join(sorted(fields | KEYS))
            raise InvalidArgument(f"unknown scheduler setting {key!r}; known: {known}")
    if settings.get("lambda_min_clipped") == -math.inf:
        settings["lambda_min_clipped"] = None
    if config.get("use_lu_lambdas") and not settings.get("use_karras_sigmas"):
        # The spacing of `use_lu_lambdas` is even in log(sigma), as its exponent is 1.
        settings["use_exponential_sigmas"] = True
    settings.update(_edm_settings(config, settings))
    if config.get("use_flow_sigmas"):
        settings["process"] = "flow"
        settings["shift"] = config.get("flow_shift") or 1.0
    return settings


def _edm_settings(config: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes a schedule one of EDM, or nothing if it is not.

    Raises
    ------
    InvalidArgument
        If continuous times are asked for in a combination that is not EDM.
    """
    if config.get("_class_name") in _EDM_CLASSES:
        spacing = f"use_{config.get('sigma_schedule') or 'karras'}_sigmas"
        kind = settings.get("prediction_type", "epsilon")
        # These classes call the network F of EDM epsilon.
        return {
            "process": "edm",
            spacing: True,
            "prediction_type": "edm" if kind == "epsilon" else kind,
        }
    if config.get("timestep_type", "discrete") in ("discrete", None):
        return {}
    ends = {"sigma_min", "sigma_max"} <= settings.keys()
    if settings.get("prediction_type") != "v_prediction" or not ends:
        raise InvalidArgument(
            f"timestep_type={config['timestep_type']!r} is supported with v_prediction, sigma_min "
            "and sigma_max; without them leave timestep_type out"
        )
    return {"process": "edm", "sigma_data": 1.0}


def _is_inert(value: object, inert: tuple[Any, ...]) -> bool:
    return any(value is item or (type(value) is type(item) and value == item) for item in inert)
