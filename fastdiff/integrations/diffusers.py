"""Denoisers of the diffusers library."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.exporting import Conditioning, Network
from fastdiff.integrations.folders import MODEL_CLASSES

TEXT_TOKENS = 77
"""Length of a CLIP text encoder's output, which a U-Net's config does not tell."""

# Settings of UNet2DConditionModel that give it inputs besides x, t, text and labels.
_EXTRA_INPUTS = (
    "addition_embed_type",
    "encoder_hid_dim_type",
    "class_embed_type",
    "time_cond_proj_dim",
)


def from_diffusers(
    model: nn.Module, sample_shape: tuple[int, int, int] | None = None
) -> Network | None:
    """Describe a model of diffusers by its config; None for a module of anything else.

    ======================== =====================================================================
    ``UNet2DModel``          ``class_labels`` if it has ``num_class_embeds``; diffusers keeps no
                             word on which class, if any, is the null class: the caller may say
    ``UNet2DConditionModel`` ``encoder_hidden_states`` (77, D), whose null value is the text
                             encoder's output for an empty prompt: the caller may say, and give
                             another length; ``class_labels`` as above
    ``DiTTransformer2DModel`` ``class_labels`` with the null class ``num_embeds_ada_norm``
    ======================== =====================================================================

    Parameters
    ----------
    model : nn.Module
    sample_shape : tuple of int, optional
        (C, H, W) of one sample, instead of what the config says.

    Raises
    ------
    InvalidArgument
        The model takes inputs that are not supported, or its config leaves the sample size open.
    UnknownName
        It is a diffusers model of another class.
    """
    if type(model).__module__.split(".")[0] != "diffusers":
        return None
    name = type(model).__name__
    if name not in MODEL_CLASSES:
        raise UnknownName("diffusers class", name, MODEL_CLASSES)
    config: Any = model.config
    conditioning = {}
    if name == "DiTTransformer2DModel":
        classes = config.num_embeds_ada_norm
        conditioning["class_labels"] = Conditioning(num_classes=classes, null=classes)
    else:
        _check_inputs(name, config)
        if name == "UNet2DConditionModel":
            shape = (TEXT_TOKENS, _width(config.cross_attention_dim))
            conditioning["encoder_hidden_states"] = Conditioning(shape, torch.float32)
        if config.num_class_embeds is not None:
            conditioning["class_labels"] = Conditioning(num_classes=config.num_class_embeds)
    return Network(
        _DiffusersDenoiser(model), sample_shape or _sample_shape(name, config), conditioning, name
    )


def _check_inputs(name: str, config: Any) -> None:
    """Refuse U-Nets that need inputs which `_DiffusersDenoiser` does not give them."""
    for setting in _EXTRA_INPUTS:
        value = config.get(setting)
        if value is not None:
            raise InvalidArgument(
                f"{name} with {setting}={value!r} takes inputs that are not supported; wrap it in "
                "an nn.Module that is called as model(x, t, **conditioning)"
            )
    if config.out_channels not in {config.in_channels, 2 * config.in_channels}:
        raise InvalidArgument(
            f"this {name} takes {config.in_channels} channels and predicts "
            f"{config.out_channels}, as those for inpainting and upscaling do; wrap it in an "
            "nn.Module that adds the known channels itself"
        )


def _width(cross_attention_dim: int | tuple[int, ...]) -> int:
    """Return the width of the text, which a config may give for each block."""
    if isinstance(cross_attention_dim, int):
        return cross_attention_dim
    if len(set(cross_attention_dim)) != 1:
        raise InvalidArgument(
            f"cross_attention_dim={cross_attention_dim!r}: expected one width for all blocks"
        )
    return cross_attention_dim[0]


def _sample_shape(name: str, config: Any) -> tuple[int, int, int]:
    size = config.sample_size
    if size is None:
        raise InvalidArgument(f"this {name}'s config has no sample_size; pass sample_shape=")
    height, width = (size, size) if isinstance(size, int) else size
    return config.in_channels, height, width


class _DiffusersDenoiser(nn.Module):
    """A diffusers model as ``model(x, t, **conditioning) -> tensor``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        output: tuple[Tensor, ...] = self.model(x, t, **conditioning, return_dict=False)
        return torch.as_tensor(output[0])
