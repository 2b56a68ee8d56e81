"""Published models by name: the configurations that their repositories hold, and their weights.

Nothing is downloaded. Weights come from the local Hugging Face cache where they are in it;
otherwise they are random, the same every time, which is enough to measure speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import nn

from fastdiff.errors import Unavailable, UnknownName
from fastdiff.integrations.folders import load_model
from fastdiff.models import digits_schedule_config, load_digits


@dataclass(frozen=True)
class Architecture:
    """A diffusers model that others have trained.

    Attributes
    ----------
    class_name : str
        Of the model, in diffusers.
    config : mapping
        Arguments of the class.
    schedule : mapping
        Configuration of the scheduler that it was trained with.
    repositories : tuple of str
        Where its weights are published on the Hugging Face hub; none where they are not.
    subfolder : str
        Where they lie in the repository.
    """

    class_name: str
    config: Mapping[str, Any]
    schedule: Mapping[str, Any]
    repositories: tuple[str, ...] = field(default=())
    subfolder: str = "."


_DIT: Mapping[str, Any] = {
    "attention_head_dim": 64,
    "in_channels": 4,
    "out_channels": 8,
    "patch_size": 2,
    "sample_size": 32,
    "num_embeds_ada_norm": 1000,
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
}

_DIT_SCHEDULE: Mapping[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "variance_type": "learned_range",
    "clip_sample": False,
}

ARCHITECTURES: Mapping[str, Architecture] = {
    # Ho, Jain and Abbeel, arXiv 2006.11239, appendix B: 35.7M parameters.
    "ddpm-cifar10": Architecture(
        "UNet2DModel",
        {
            "sample_size": 32,
            "in_channels": 3,
            "out_channels": 3,
            "block_out_channels": (128, 256, 256, 256),
            "layers_per_block": 2,
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": None,
            "downsample_padding": 0,
            "flip_sin_to_cos": False,
            "freq_shift": 1,
            "norm_eps": 1e-6,
            "norm_num_groups": 32,
        },
        {
            "num_train_timesteps": 1000,
            "beta_schedule": "linear",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "prediction_type": "epsilon",
            "variance_type": "fixed_large",
            "clip_sample": True,
        },
        ("google/ddpm-cifar10-32",),
    ),
    # Peebles and Xie, arXiv 2212.09748, table 1. diffusers gives each block label and time
    # embeddings of its own, so it counts 39.8M parameters where the paper has 33M ...
    "dit-s2": Architecture(
        "DiTTransformer2DModel",
        {**_DIT, "num_layers": 12, "num_attention_heads": 6},
        _DIT_SCHEDULE,
    ),
    # ... and 749.8M where the paper has 675M.
    "dit-xl2": Architecture(
        "DiTTransformer2DModel",
        {**_DIT, "num_layers": 28, "num_attention_heads": 16, "attention_head_dim": 72},
        _DIT_SCHEDULE,
        ("facebook/DiT-XL-2-256",),
        "transformer",
    ),
    # Rombach et al., arXiv 2112.10752, at version 1.5: 859.5M parameters.
    "sd15-unet": Architecture(
        "UNet2DConditionModel",
        {
            "sample_size": 64,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": (320, 640, 1280, 1280),
            "layers_per_block": 2,
            "down_block_types": (*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"),
            "up_block_types": ("UpBlock2D", *["CrossAttnUpBlock2D"] * 3),
            "attention_head_dim": 8,  # diffusers counts heads under this name
            "cross_attention_dim": 768,
            "downsample_padding": 1,
            "flip_sin_to_cos": True,
            "freq_shift": 0,
            "norm_eps": 1e-5,
            "norm_num_groups": 32,
        },
        {
            "num_train_timesteps": 1000,
            "beta_schedule": "scaled_linear",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "prediction_type": "epsilon",
            "clip_sample": False,
            "set_alpha_to_one": False,
            "steps_offset": 1,
        },
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", "runwayml/stable-diffusion-v1-5"),
        "unet",
    ),
}

MODEL_NAMES = ("digits", *ARCHITECTURES)
"""What `named_model` knows."""


def named_model(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return a model by name, in float32 on the CPU, with its scheduler's configuration.

    Parameters
    ----------
    name : str
        One of `MODEL_NAMES`.

    Returns
    -------
    model : nn.Module
        The `fastdiff.models.DigitsUNet`, or an object of diffusers, in evaluation mode. Its
        weights are random, with the same bits at each call, if `cached_weights` has none.
    schedule : dict
        For `fastdiff.Schedule.from_config`, in the keys of diffusers.

    Raises
    ------
    UnknownName
        There is no such model.
    Unavailable
        diffusers is not installed.
    WeightsError
        The weights in the cache are corrupt.
    """
    if name == "digits":
        return load_digits(), digits_schedule_config()
    architecture = _architecture(name)
    folder = cached_weights(name)
    model = _random_model(architecture) if folder is None else load_model(folder)
    return model, dict(architecture.schedule)


def cached_weights(name: str) -> Path | None:
    """Return the folder of the local Hugging Face cache that holds a model's weights, if any does.

    Only safetensors count, and only what the cache calls the branch ``main``. No network is used.

    Raises
    ------
    UnknownName
        There is no such architecture.
    """
    architecture = _architecture(name)
    try:
        from huggingface_hub import try_to_load_from_cache
    except ImportError:
        return None
    for repository in architecture.repositories:
        found = [
            try_to_load_from_cache(
                repository, (PurePosixPath(architecture.subfolder) / file).as_posix()
            )
            for file in ("diffusion_pytorch_model.safetensors", "config.json")
        ]
        if all(isinstance(path, str) for path in found):
            return Path(str(found[0])).parent
    return None


def _architecture(name: str) -> Architecture:
    if name not in ARCHITECTURES:
        raise UnknownName("model", name, MODEL_NAMES)
    return ARCHITECTURES[name]


def _random_model(architecture: Architecture) -> nn.Module:
    """Build a model from seed 0, and leave torch's own random state as it was."""
    try:
        import diffusers
    except ImportError as error:
        raise Unavailable(
            "this model needs diffusers: pip install 'fastdiff-runtime[diffusers]'"
        ) from error
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model: nn.Module = getattr(diffusers, architecture.class_name)(**architecture.config)
    return model.eval()
