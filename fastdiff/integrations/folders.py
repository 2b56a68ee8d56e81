"""Models in the folder layout of diffusers."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fastdiff.errors import InvalidArgument, Unavailable, UnknownName, WeightsError
from fastdiff.integrations.transformers import TRANSFORMER_CLASSES

MODEL_CLASSES = (
    "UNet2DModel",
    "UNet2DConditionModel",
    "DiTTransformer2DModel",
    *TRANSFORMER_CLASSES,
)
"""What `fastdiff.integrations.from_diffusers` describes."""

_SCHEDULER_CONFIGS = ("scheduler/scheduler_config.json", "scheduler_config.json")


def is_pipeline(model: object) -> bool:
    """Whether `model` is a pipeline of diffusers, or the folder of a saved one."""
    if isinstance(model, (str, os.PathLike)):
        return (Path(model) / "model_index.json").is_file()
    return any(
        base.__name__ == "DiffusionPipeline" and base.__module__.startswith("diffusers.")
        for base in type(model).__mro__
    )


def load_diffusers(folder: Path) -> tuple[nn.Module, Path | None]:
    """Load the denoiser of a folder in the diffusers layout.

    Parameters
    ----------
    folder : Path
        Holds a model's config.json and safetensors, or is a pipeline's folder with ``unet/`` or
        ``transformer/`` in it. Pickled weights are refused.

    Returns
    -------
    model : nn.Module
    scheduler_config : Path or None
        Path of the scheduler_config.json beside it or under ``scheduler/``, if there is one.

    Raises
    ------
    InvalidArgument
        There is no model in the folder, or one of an unknown class.
    WeightsError
        Its weights are missing, corrupt or not safetensors.
    Unavailable
        diffusers is not installed.
    """
    inside = (folder / name for name in ("unet", "transformer"))
    model = load_model(next((path for path in inside if path.is_dir()), folder))
    configs = (folder / name for name in _SCHEDULER_CONFIGS)
    return model, next((path for path in configs if path.is_file()), None)


def load_model(folder: Path) -> nn.Module:
    """Load the model whose config.json is in `folder`; errors are those of `load_diffusers`."""
    model: nn.Module = load_pretrained(_class_name(folder), folder)
    return model.eval()


def load_pretrained(class_name: str, folder: Path) -> Any:
    """Load what diffusers saved in `folder`: an object of one of its classes, from safetensors.

    Weights become float32, in whichever type they were saved: parts of a pipeline would keep theirs
    or not, by the library that they are of.

    Raises
    ------
    WeightsError
        Weights are missing, corrupt or not safetensors.
    Unavailable
        diffusers is not installed.
    """
    try:
        import diffusers
    except ImportError as error:
        raise Unavailable(
            "loading this folder needs diffusers: pip install 'fastdiff-runtime[diffusers]'"
        ) from error
    try:
        loaded = getattr(diffusers, class_name).from_pretrained(
            folder, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise WeightsError(f"{folder} cannot be loaded: {error}") from error
    return loaded.to(torch.float32)


def _class_name(folder: Path) -> str:
    """Return the class that a config.json names."""
    path = folder / "config.json"
    if not path.is_file():
        raise InvalidArgument(
            f"{folder} holds no config.json of a model, and no unet/ or transformer/ that does"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        name = str(config["_class_name"])
        # What diffusers called DiT before it had a class of its own.
        if name == "Transformer2DModel" and config.get("norm_type") == "ada_norm_zero":
            name = "DiTTransformer2DModel"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InvalidArgument(f"{path} is no configuration of a diffusers model") from error
    if name not in MODEL_CLASSES:
        raise UnknownName(f"model class in {path}", name, MODEL_CLASSES)
    return name
