"""What distinguishes the pipelines: their denoiser, its inputs, and the arguments they take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from fastdiff.errors import InvalidArgument, UnknownName
from fastdiff.integrations.diffusers import from_diffusers
from fastdiff.networks import Conditioning, Network, unwrapped

Shape = tuple[int, int, int]

_BERT_TOKENS = 77  # which LDMTextToImagePipeline asks its tokenizer for


@dataclass(frozen=True)
class Family:
    """Pipelines whose calls are alike.

    Attributes
    ----------
    denoiser : str
        Name of the component that the loop calls.
    describe : callable
        ``describe(pipeline, sample_shape or None)`` returns it as a `Network`.
    output_types : tuple of str
        What ``output_type`` may be.
    doubles_state : bool
        Whether a guided loop carries every image twice, the conditional one first (DiT), instead
        of doubling the denoiser's input alone, the unconditional half first.
    """

    denoiser: str
    describe: Callable[[Any, Shape | None], Network]
    output_types: tuple[str, ...] = ("pil", "np", "pt")
    doubles_state: bool = False


class InpaintingDenoiser(nn.Module):
    """A U-Net that sees x, the mask and the masked image side by side, as ``model(x, t, ...)``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        encoder_hidden_states: Tensor,
        mask_latents: Tensor,
        masked_image_latents: Tensor,
    ) -> Tensor:
        """Join the channels and evaluate."""
        inputs = torch.cat([x, mask_latents, masked_image_latents], 1)
        output = self.model(inputs, t, encoder_hidden_states, return_dict=False)
        return torch.as_tensor(output[0])


def family_of(class_name: str) -> Family:
    """Return the family of a pipeline by the name of its class.

    Raises
    ------
    UnknownName
        It is none of `PIPELINE_CLASSES`.
    """
    if class_name not in _FAMILIES:
        raise UnknownName("pipeline class", class_name, _FAMILIES)
    return _FAMILIES[class_name]


def class_of_pipeline(pipe: Any) -> str:
    """Return the class of diffusers that a pipeline is of or derived from.

    Raises
    ------
    UnknownName
        It is none of `PIPELINE_CLASSES`.
    InvalidArgument
        It is called otherwise than that class.
    """
    bases = type(pipe).__mro__
    known = [base for base in bases if base.__name__ in _FAMILIES and _is_of_diffusers(base)]
    if not known:
        raise UnknownName("pipeline class", type(pipe).__name__, _FAMILIES)
    if type(pipe).__call__ is not known[0].__call__:
        raise InvalidArgument(
            f"{type(pipe).__name__} has a __call__ of its own, whose loop may do something else "
            f"than that of {known[0].__name__}; compile its denoiser and sample it in your own"
        )
    return known[0].__name__


def _is_of_diffusers(kind: type) -> bool:
    return kind.__module__.split(".")[0] == "diffusers"


def denoiser_of(pipe: Any, family: Family) -> Any:
    """Return the denoiser of a pipeline without wrappers."""
    return unwrapped(getattr(pipe, family.denoiser))


def paints_masked(unet: Any) -> bool:
    """Whether a U-Net takes a mask of one channel and a masked image beside x."""
    return bool(unet.config.in_channels == 2 * unet.config.out_channels + 1)


def _unet(pipe: Any, sample_shape: Shape | None) -> Network:
    return _known(from_diffusers(pipe.unet, sample_shape))


def _transformer(pipe: Any, sample_shape: Shape | None) -> Network:
    return _known(from_diffusers(pipe.transformer, sample_shape))


def _known(network: Network | None) -> Network:
    if network is None:
        raise InvalidArgument("the pipeline's denoiser is of a class that diffusers does not have")
    return network


def _text_unet(pipe: Any, sample_shape: Shape | None) -> Network:
    """Describe a U-Net that reads text; its null value is the text of an empty prompt."""
    empty = _empty_prompt(pipe)
    text = {"encoder_hidden_states": Conditioning((*empty.shape,), torch.float32, null=empty)}
    unet: Any = unwrapped(pipe.unet)
    if not paints_masked(unet):
        network = _unet(pipe, sample_shape)
        return replace(network, conditioning={**network.conditioning, **text})
    config = unet.config
    channels, height, width = sample_shape or (
        config.out_channels,
        config.sample_size,
        config.sample_size,
    )
    known = {
        "mask_latents": Conditioning((1, height, width), torch.float32, null=0.0),
        "masked_image_latents": Conditioning((channels, height, width), torch.float32, null=0.0),
    }
    shape = (channels, height, width)
    return Network(InpaintingDenoiser(unet), shape, {**text, **known}, "UNet2DConditionModel")


def _empty_prompt(pipe: Any) -> Tensor:
    """Return the text encoder's output for an empty prompt, (tokens, width)."""
    encoder, length = (
        (pipe.bert, _BERT_TOKENS)
        if hasattr(pipe, "bert")
        else (pipe.text_encoder, pipe.tokenizer.model_max_length)
    )
    if encoder is None:
        raise InvalidArgument("the pipeline has no text_encoder, whose output fastdiff describes")
    tokens = pipe.tokenizer([""], padding="max_length", max_length=length, return_tensors="pt")
    with torch.no_grad():
        states: Tensor = encoder(tokens.input_ids.to(encoder.device))[0]
    return states[0].float().cpu()


_IMAGES_OR_LATENTS = ("pil", "np", "pt", "latent")
_FAMILIES = {
    "DDIMPipeline": Family("unet", _unet),
    "DDPMPipeline": Family("unet", _unet),
    "DiTPipeline": Family("transformer", _transformer, doubles_state=True),
    "LDMPipeline": Family("unet", _unet, ("pil", "np")),
    "LDMTextToImagePipeline": Family("unet", _text_unet),
    "StableDiffusionImg2ImgPipeline": Family("unet", _text_unet, _IMAGES_OR_LATENTS),
    "StableDiffusionInpaintPipeline": Family("unet", _text_unet, _IMAGES_OR_LATENTS),
    "StableDiffusionPipeline": Family("unet", _text_unet, _IMAGES_OR_LATENTS),
}

PIPELINE_CLASSES = tuple(_FAMILIES)
"""The pipelines of diffusers that `fastdiff.compile` takes."""
