"""Reading the ``scheduler_config.json`` that diffusers writes.

Every key of a configuration is either understood, known to leave the result alone, or refused:
a key that is silently dropped would give other images than the ones the model was made for.
"""

from __future__ import annotations

import json
import math
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
    "interpolation_type": ("linear", None),
    "invert_sigmas": (False, None),
}

# Keys of one solver, of a feature refused above, or of the pipeline: the schedule leaves them be.
SOLVER_KEYS = frozenset(
    {
        "algorithm_type",
        "base_image_seq_len",
        "base_shift",
        "clip_denoised",
        "disable_corrector",
        "euler_at_final",
        "flow_shift",
        "lower_order_final",
        "max_image_seq_len",
        "max_shift",
        "noise_sampler_seed",
        "original_inference_steps",
        "predict_x0",
        "s_noise",
        "sigma_schedule",
        "skip_prk_steps",
        "solver_order",
        "solver_p",
        "solver_type",
        "stochastic_sampling",
        "timestep_scaling",
        "timestep_type",
        "use_flow_sigmas",
    }
)

_K_DIFFUSION = {"timestep_spacing": "linspace"}
_STABLE_DIFFUSION_BETAS = {"beta_start": 0.00085, "beta_end": 0.012}
_HEUN = {**_K_DIFFUSION, **_STABLE_DIFFUSION_BETAS}

# A file may leave out what equals its class's default, where that is not the default of Schedule.
_CLASS_DEFAULTS: dict[str, dict[str, Any]] = {
    "DEISMultistepScheduler": _K_DIFFUSION,
    "DPMSolverMultistepScheduler": _K_DIFFUSION,
    "DPMSolverSDEScheduler": _HEUN,
    "DPMSolverSinglestepScheduler": _K_DIFFUSION,
    "EDMDPMSolverMultistepScheduler": {"sigma_min": 0.002, "sigma_max": 80.0},
    "EDMEulerScheduler": {"sigma_min": 0.002, "sigma_max": 80.0},
    "EulerAncestralDiscreteScheduler": _K_DIFFUSION,
    "EulerDiscreteScheduler": _K_DIFFUSION,
    "HeunDiscreteScheduler": _HEUN,
    "KDPM2AncestralDiscreteScheduler": _HEUN,
    "KDPM2DiscreteScheduler": _HEUN,
    "LCMScheduler": {
        **_STABLE_DIFFUSION_BETAS,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
    },
    "PNDMScheduler": {"set_alpha_to_one": False},
    "UniPCMultistepScheduler": _K_DIFFUSION,
}

# What a class does whatever its configuration says: one that comes from another class keeps keys
# that the class never reads.
_NO_SIGMA_SPACING = {
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_FLOW = {"process": "flow", "prediction_type": "flow_prediction", "final_sigmas_type": "zero"}
_CLASS_FIXED: dict[str, dict[str, Any]] = {
    "DDIMInverseScheduler": _NO_SIGMA_SPACING,
    "DDIMScheduler": _NO_SIGMA_SPACING,
    "DDPMScheduler": _NO_SIGMA_SPACING,
    "DEISMultistepScheduler": {"final_sigmas_type": "sigma_min"},
    "DPMSolverSDEScheduler": {"final_sigmas_type": "zero"},
    "DPMSolverSinglestepScheduler": {"timestep_spacing": "linspace"},
    "EulerAncestralDiscreteScheduler": {**_NO_SIGMA_SPACING, "final_sigmas_type": "zero"},
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": {
        **_FLOW,
        **_NO_SIGMA_SPACING,
        "use_dynamic_shifting": False,
        "shift_terminal": None,
    },
    "HeunDiscreteScheduler": {"final_sigmas_type": "zero"},
    "KDPM2AncestralDiscreteScheduler": {"final_sigmas_type": "zero"},
    "KDPM2DiscreteScheduler": {"final_sigmas_type": "zero"},
    "LCMScheduler": _NO_SIGMA_SPACING,
    "PNDMScheduler": _NO_SIGMA_SPACING,
}
# Keys that only these classes read; of any other class they are left from another's configuration.
_READERS: dict[str, tuple[str, ...]] = {
    "thresholding": (
        "DDIMScheduler",
        "DDPMScheduler",
        "DEISMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "EDMDPMSolverMultistepScheduler",
        "LCMScheduler",
        "UniPCMultistepScheduler",
    ),
    "lambda_min_clipped": ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler"),
    "use_lu_lambdas": ("DPMSolverMultistepScheduler",),
}
_SAME_STEPS = {
    "DDIMParallelScheduler": "DDIMScheduler",
    "DDPMParallelScheduler": "DDPMScheduler",
}
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
    """Return the configuration under the name of the class that does the same step by step."""
    name = config.get("_class_name")
    return {**config, "_class_name": _SAME_STEPS[name]} if name in _SAME_STEPS else config


def schedule_settings(config: Mapping[str, Any], fields: frozenset[str]) -> dict[str, Any]:
    """Return the settings of `config` that are among `fields`, the fields of a schedule.

    Raises
    ------
    InvalidArgument
        If a key would change the result and is not supported, or is not known at all.
    """
    settings: dict[str, Any] = {}
    name = config.get("_class_name")
    for key, value in config.items():
        if key.startswith("_") or key in SOLVER_KEYS:
            continue
        if name is not None and name not in _READERS.get(key, (name,)):
            continue
        if key in fields or key == "use_lu_lambdas":
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
    if settings.get("lambda_min_clipped") == -math.inf:
        settings["lambda_min_clipped"] = None
    if settings.pop("use_lu_lambdas", False) and not settings.get("use_karras_sigmas"):
        # Its exponent is 1, so it is even in log(sigma).
        settings["use_exponential_sigmas"] = True
    settings = {**_CLASS_DEFAULTS.get(str(name), {}), **settings, **_CLASS_FIXED.get(str(name), {})}
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
        # The network F of EDM is called epsilon there.
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
