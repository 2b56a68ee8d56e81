"""Pipelines of diffusers as served models: their text encoder before, their decoder after."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument
from fastdiff.integrations.pipelines import CompiledPipeline
from fastdiff.integrations.pipelines.families import family_of
from fastdiff.integrations.schedulers import read_scheduler
from fastdiff.serving.faults import invalid
from fastdiff.serving.sampler_model import Decoder, SamplerModel, TextInput

_GUIDANCE = 7.5  # StableDiffusionPipeline's default
_TEXT = "encoder_hidden_states"


def pipeline_model(sizes: Sequence[CompiledPipeline]) -> SamplerModel:
    """Return a compiled pipeline as a model that can be served.

    Parameters
    ----------
    sizes : sequence of CompiledPipeline
        One pipeline that can make images from nothing, from class labels or from text, compiled
        for each size, the usual one first.

    Raises
    ------
    InvalidArgument
        It needs an image, or reads text in a way that is not known here.
    """
    pipe, network = sizes[0].pipeline, sizes[0].sampler.network
    solver, _ = read_scheduler(pipe.scheduler)
    text = None
    if _TEXT in network.conditioning:
        if getattr(pipe, "text_encoder", None) is None:
            raise InvalidArgument(f"{type(pipe).__name__} has no text encoder that can be served")
        text = TextInput(_TEXT, _TextEncoder(pipe))
    return SamplerModel(
        [compiled.sampler for compiled in sizes],
        text=text,
        decoder=_decoder(pipe),
        default_solver=solver,
        default_guidance=1.0 if text is None else _GUIDANCE,
    )


def latents_of(pipe: Any) -> tuple[int, int]:
    """Return the channels of a pipeline's samples, and the pixels that one is along each side."""
    denoiser = getattr(pipe, family_of(type(pipe).__name__).denoiser)
    decoder = _decoder(pipe)
    return denoiser.config.in_channels, 1 if decoder is None else decoder.scale


class _TextEncoder:
    """Texts to (n, tokens, width), as `StableDiffusionPipeline.encode_prompt` does it.

    Where that cuts a long prompt off, this refuses it.
    """

    def __init__(self, pipe: Any) -> None:
        self._tokenizer, self._encoder = pipe.tokenizer, pipe.text_encoder
        self._lock = threading.Lock()  # fast tokenizers cannot be used by two threads at once

    def __call__(self, texts: list[str]) -> Tensor:
        length = self._tokenizer.model_max_length
        with self._lock:
            tokens = self._tokenizer(texts, padding="max_length", max_length=length)
        for name, ids in zip(("prompt", "negative_prompt"), tokens.input_ids, strict=False):
            if len(ids) > length:
                raise invalid(
                    name, f"{name}: this model reads {length - 2} tokens, got {len(ids) - 2}"
                )
        ids = torch.tensor(tokens.input_ids, device=self._encoder.device)
        with torch.inference_mode():
            states: Tensor = self._encoder(ids)[0]
        return states.float().cpu()


def _decoder(pipe: Any) -> Decoder | None:
    """Return how a pipeline's latents become pictures; None if its samples are pictures."""
    vae = getattr(pipe, "vae", None) or getattr(pipe, "vqvae", None)
    if vae is None:
        return None
    factor = float(vae.config.scaling_factor)

    def decode(latents: Tensor) -> Tensor:
        with torch.inference_mode():
            scaled = latents.to(vae.device, vae.dtype) / factor
            images: Tensor = vae.decode(scaled, return_dict=False)[0]
        return images.float().cpu()

    return Decoder(2 ** (len(vae.config.block_out_channels) - 1), decode)
