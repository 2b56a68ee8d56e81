"""Denoisers of the diffusers library."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.integrations.folders import MODEL_CLASSES
from fastdiff.integrations.transformers import TRANSFORMER_CLASSES, describe_transformer
from fastdiff.networks import Conditioning, Network, SampleShape, picture_shape, unwrapped

TEXT_TOKENS = 77
"""Length of a CLIP text encoder's output, which a U-Net's config does not tell."""

_ADDED = ("text_embeds", "time_ids")  # which SDXL's U-Net takes in a dict
_VAE_FACTOR = 8  # pixels per latent, in the sizes that SDXL is told

# Settings of UNet2DConditionModel that give it inputs besides those of `_unet_inputs`.
_EXTRA_INPUTS = ("encoder_hid_dim_type", "class_embed_type")


def from_diffusers(model: nn.Module, sample_shape: SampleShape | None = None) -> Network | None:
    """Describe a model of diffusers by its config; None for a module of anything else.

    Wrappers are taken off (`unwrapped`). A class derived from one of these is called as that is, if
    its ``forward`` can be; a class derived from any other is a module of anything else.

    ======================== =====================================================================
    ``UNet2DModel``          ``class_labels`` if it has ``num_class_embeds``; diffusers keeps no
                             word on which class, if any, is the null class: the caller may say
    ``UNet2DConditionModel`` ``encoder_hidden_states`` (77, D), whose null value is the text
                             encoder's output for an empty prompt: the caller may say, and give
                             another length; ``class_labels`` as above; SDXL's ``text_embeds``
                             and ``time_ids``, which are the sample's own size if left out; the
                             guidance embedding ``timestep_cond`` of latent consistency models
    ``DiTTransformer2DModel`` ``class_labels`` with the null class ``num_embeds_ada_norm``
    transformers with text   those of SD3, PixArt, Sana, AuraFlow and FLUX, by diffusers' names:
                             see `fastdiff.integrations.transformers`
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
    model = unwrapped(model)
    name = _class_name(model)
    if name is None:
        return None
    given = None if sample_shape is None else picture_shape(name, sample_shape)
    if name in TRANSFORMER_CLASSES:
        return describe_transformer(model, name, given)
    config: Any = model.config
    shape = given or _sample_shape(name, config)
    conditioning = {}
    if name == "DiTTransformer2DModel":
        classes = config.num_embeds_ada_norm
        conditioning["class_labels"] = Conditioning(num_classes=classes, null=classes)
    else:
        _check_inputs(name, config)
        if name == "UNet2DConditionModel":
            conditioning |= _unet_inputs(config, shape)
        if config.num_class_embeds is not None:
            conditioning["class_labels"] = Conditioning(num_classes=config.num_class_embeds)
    return Network(_DiffusersDenoiser(model), shape, conditioning, name)


def _class_name(model: nn.Module) -> str | None:
    """Return the class of diffusers as which a model is called, if it is of one.

    Raises
    ------
    UnknownName
        It is of a class of diffusers that is not described.
    """
    kind = type(model)
    of_diffusers = [base for base in kind.__mro__ if base.__module__.split(".")[0] == "diffusers"]
    name = of_diffusers[0].__name__ if of_diffusers else ""
    if name in MODEL_CLASSES:
        known = inspect.signature(model.forward).parameters
        takes_any = any(p.kind is p.VAR_KEYWORD for p in known.values())
        return name if takes_any or "return_dict" in known else None
    if kind not in of_diffusers:
        return None
    raise UnknownName(
        "diffusers class (wrap it in an nn.Module called as model(x, t, **conditioning))",
        name,
        MODEL_CLASSES,
    )


def _unet_inputs(config: Any, sample_shape: tuple[int, int, int]) -> dict[str, Conditioning]:
    """Return the inputs of a UNet2DConditionModel besides labels."""
    floats = torch.float32
    text = (TEXT_TOKENS, _width(config.cross_attention_dim))
    inputs = {"encoder_hidden_states": Conditioning(text, floats)}
    if config.addition_embed_type == "text_time":  # SDXL, arXiv 2307.01952, sec. 2.2
        width = config.projection_class_embeddings_input_dim - 6 * config.addition_time_embed_dim
        height, across = (float(_VAE_FACTOR * size) for size in sample_shape[1:])
        whole = torch.tensor([height, across, 0, 0, height, across])
        inputs["text_embeds"] = Conditioning((width,), floats)
        inputs["time_ids"] = Conditioning((6,), floats, null=whole)
    elif config.addition_embed_type is not None:
        raise InvalidArgument(_refusal("UNet2DConditionModel", config, "addition_embed_type"))
    if config.time_cond_proj_dim is not None:
        inputs["timestep_cond"] = Conditioning((config.time_cond_proj_dim,), floats)
    return inputs


def _check_inputs(name: str, config: Any) -> None:
    """Refuse U-Nets that need inputs which `_DiffusersDenoiser` does not give them."""
    for setting in _EXTRA_INPUTS:
        if config.get(setting) is not None:
            raise InvalidArgument(_refusal(name, config, setting))
    if config.out_channels not in {config.in_channels, 2 * config.in_channels}:
        raise InvalidArgument(
            f"this {name} takes {config.in_channels} channels and predicts "
            f"{config.out_channels}, as those for inpainting and upscaling do; wrap it in an "
            "nn.Module that adds the known channels itself"
        )


def _refusal(name: str, config: Any, setting: str) -> str:
    return (
        f"{name} with {setting}={config[setting]!r} takes inputs that are not supported; wrap it "
        "in an nn.Module that is called as model(x, t, **conditioning)"
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

    def forward(self, x: Tensor, t: Tensor, **conditioning: Any) -> Tensor:
        added = {name: conditioning.pop(name) for name in _ADDED if name in conditioning}
        if added:
            conditioning["added_cond_kwargs"] = added
        output: tuple[Tensor, ...] = self.model(x, t, **conditioning, return_dict=False)
        return torch.as_tensor(output[0])
