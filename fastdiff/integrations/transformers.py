"""The transformers of diffusers that read text: what they take, and how each is called.

Times of a flow schedule run to ``num_train_timesteps``; classes that take 0 to 1 are given less.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from fastdiff.errors import InvalidArgument
from fastdiff.networks import Conditioning, Network

_CLIP_TOKENS, _T5_TOKENS = 77, 256  # that SD3's pipeline puts side by side
_VAE_FACTOR = 8  # pixels per latent, in the sizes that PixArt is told
_GUIDANCE = 3.5  # of FLUX.1-dev's pipeline

Inputs = dict[str, Conditioning]


def _floats(*shape: int, null: float | Tensor | None = None) -> Conditioning:
    return Conditioning(shape, torch.float32, null=null)


class TransformerDenoiser(nn.Module):
    """A transformer as ``model(x, t, **conditioning) -> tensor``.

    Parameters
    ----------
    model : nn.Module
    time_unit : float
        What times are divided by.
    """

    def __init__(self, model: nn.Module, time_unit: float = 1.0) -> None:
        super().__init__()
        self.model, self.time_unit = model, time_unit

    def forward(self, x: Tensor, t: Tensor, **conditioning: Any) -> Tensor:
        """Map (B, C, H, W) to the prediction."""
        output: tuple[Tensor, ...] = self.model(
            hidden_states=x, timestep=t / self.time_unit, **conditioning, return_dict=False
        )
        return output[0]


class SizedDenoiser(TransformerDenoiser):
    """PixArt's transformer, which may be told the size of the image (arXiv 2310.00426)."""

    def forward(self, x: Tensor, t: Tensor, **conditioning: Any) -> Tensor:
        """Map (B, C, H, W) to the prediction and the learned variance."""
        sizes = {name: conditioning.pop(name, None) for name in ("resolution", "aspect_ratio")}
        return super().forward(x, t, added_cond_kwargs=sizes, **conditioning)


class PackedDenoiser(TransformerDenoiser):
    """FLUX's transformer, whose tokens are patches of 2 x 2 latents, each with its place."""

    def forward(self, x: Tensor, t: Tensor, **conditioning: Any) -> Tensor:
        """Map (B, C, H, W), H and W even, to the prediction."""
        _, channels, height, width = x.shape
        rows, columns = height // 2, width // 2
        patches = x.reshape(-1, channels, rows, 2, columns, 2).permute(0, 2, 4, 1, 3, 5)
        place = x.new_zeros(rows, columns, 3)
        place[..., 1] += torch.arange(rows, device=x.device)[:, None]
        place[..., 2] += torch.arange(columns, device=x.device)
        tokens = super().forward(
            patches.reshape(-1, rows * columns, 4 * channels),
            t,
            img_ids=place.reshape(-1, 3),
            txt_ids=x.new_zeros(conditioning["encoder_hidden_states"].shape[1], 3),
            **conditioning,
        )
        patches = tokens.reshape(-1, rows, columns, channels, 2, 2).permute(0, 3, 1, 4, 2, 5)
        return patches.reshape(-1, channels, height, width)


def _sd3(config: Any, shape: tuple[int, int, int]) -> Inputs:
    return {
        "encoder_hidden_states": _floats(_CLIP_TOKENS + _T5_TOKENS, config.joint_attention_dim),
        "pooled_projections": _floats(config.pooled_projection_dim),
    }


def _pixart(config: Any, shape: tuple[int, int, int]) -> Inputs:
    tokens = 120  # of PixArt-alpha; PixArt-Sigma has 300
    inputs = {
        "encoder_hidden_states": _floats(tokens, config.caption_channels),
        "encoder_attention_mask": _floats(tokens, null=1.0),
    }
    sized = config.use_additional_conditions
    if config.sample_size == 128 if sized is None else sized:
        height, width = (float(_VAE_FACTOR * size) for size in shape[1:])
        inputs["resolution"] = _floats(2, null=torch.tensor([height, width]))
        inputs["aspect_ratio"] = _floats(1, null=height / width)
    return inputs


def _sana(config: Any, shape: tuple[int, int, int]) -> Inputs:
    if config.get("guidance_embeds"):
        raise InvalidArgument(
            "SanaTransformer2DModel with guidance_embeds=True is sampled by a solver of its own "
            "(SANA-Sprint), which is not supported"
        )
    tokens = 300
    return {
        "encoder_hidden_states": _floats(tokens, config.caption_channels),
        "encoder_attention_mask": _floats(tokens, null=1.0),
    }


def _auraflow(config: Any, shape: tuple[int, int, int]) -> Inputs:
    return {"encoder_hidden_states": _floats(256, config.joint_attention_dim)}


def _flux(config: Any, shape: tuple[int, int, int]) -> Inputs:
    inputs = {
        "encoder_hidden_states": _floats(512, config.joint_attention_dim),
        "pooled_projections": _floats(config.pooled_projection_dim),
    }
    if config.guidance_embeds:
        inputs["guidance"] = _floats(null=_GUIDANCE)
    return inputs


@dataclass(frozen=True)
class _Class:
    """How a class of diffusers is described.

    Attributes
    ----------
    inputs : callable
        Conditioning by the model's config and the sample's shape.
    denoiser : type
        How it is called.
    time_unit : callable
        What its times are divided by, by its config.
    channels : callable
        C by its config.
    """

    inputs: Callable[[Any, tuple[int, int, int]], Inputs]
    denoiser: type[TransformerDenoiser] = TransformerDenoiser
    time_unit: Callable[[Any], float] = lambda config: 1.0
    channels: Callable[[Any], int] = lambda config: config.in_channels


_CLASSES: Mapping[str, _Class] = {
    "AuraFlowTransformer2DModel": _Class(_auraflow, time_unit=lambda config: 1000.0),
    "FluxTransformer2DModel": _Class(
        _flux, PackedDenoiser, lambda config: 1000.0, lambda config: config.in_channels // 4
    ),
    "PixArtTransformer2DModel": _Class(_pixart, SizedDenoiser),
    "SD3Transformer2DModel": _Class(_sd3),
    "SanaTransformer2DModel": _Class(
        _sana, time_unit=lambda config: 1.0 / (config.get("timestep_scale") or 1.0)
    ),
}

TRANSFORMER_CLASSES = tuple(_CLASSES)
"""What `describe_transformer` knows."""


def describe_transformer(
    model: Any, name: str, sample_shape: tuple[int, int, int] | None
) -> Network:
    """Describe a transformer of the class `name`, one of `TRANSFORMER_CLASSES`, by its config.

    The lengths of texts are those of the published pipelines; the caller may give others.

    Raises
    ------
    InvalidArgument
        Its config leaves the sample size open, or asks for inputs that are not supported.
    """
    described, config = _CLASSES[name], model.config
    if sample_shape is None:
        size = config.get("sample_size")
        if size is None:
            raise InvalidArgument(f"this {name}'s config has no sample_size; pass sample_shape=")
        sample_shape = described.channels(config), size, size
    return Network(
        described.denoiser(model, described.time_unit(config)),
        sample_shape,
        described.inputs(config, sample_shape),
        name,
    )
