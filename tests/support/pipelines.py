"""Tiny seeded pipelines of the real classes of diffusers."""

from __future__ import annotations

import string

import torch
from diffusers import (
    AutoencoderKL,
    DDIMPipeline,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    DiTPipeline,
    DPMSolverMultistepScheduler,
    LDMPipeline,
    LDMTextToImagePipeline,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    VQModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import (
    LDMBertConfig,
    LDMBertModel,
)
from diffusers_models import dit, unet2d, unet2d_condition
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

WIDTH, TOKENS = 12, 16
START, END = 62, 63
STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}


def ddpm():
    return DDPMPipeline(unet2d(in_channels=3, out_channels=3), DDPMScheduler())


def ddim():
    return DDIMPipeline(unet2d(in_channels=3, out_channels=3), DDIMScheduler())


def ldm():
    unet = unet2d(in_channels=4, out_channels=4)
    return LDMPipeline(vq(), unet, DDIMScheduler(clip_sample=False))


def class_conditional():
    """A DiT with a learned variance, of 1000 classes as the pipeline assumes."""
    model = dit(in_channels=4, out_channels=8, num_embeds_ada_norm=1000, sample_size=8)
    labels = {"3": "tench, fish", "5": "umbrella"}
    return DiTPipeline(model, kl(), DDIMScheduler(clip_sample=False), id2label=labels)


def text_to_image(kind=StableDiffusionPipeline, scheduler=None, **unet):
    """Stable Diffusion, with a safety checker that nobody needs left out."""
    return kind(
        vae=kl(),
        text_encoder=clip(),
        tokenizer=tokenizer(),
        unet=unet2d_condition(**{"in_channels": 4, "out_channels": 4, **unet}),
        scheduler=scheduler or PNDMScheduler(skip_prk_steps=True, **STABLE_DIFFUSION),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def image_to_image():
    scheduler = DPMSolverMultistepScheduler(**STABLE_DIFFUSION)
    return text_to_image(StableDiffusionImg2ImgPipeline, scheduler)


def inpainting(**unet):
    scheduler = DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **STABLE_DIFFUSION)
    return text_to_image(StableDiffusionInpaintPipeline, scheduler, **unet)


def inpainting_unet():
    """A U-Net that sees the mask and the masked image, as those trained for inpainting."""
    return inpainting(in_channels=9)


def ldm_text_to_image():
    torch.manual_seed(4)
    config = LDMBertConfig(
        vocab_size=64,
        max_position_embeddings=77,
        encoder_layers=1,
        encoder_ffn_dim=24,
        encoder_attention_heads=2,
        head_dim=6,
        d_model=WIDTH,
        pad_token_id=END,
    )
    unet = unet2d_condition(in_channels=4, out_channels=4)
    scheduler = DDIMScheduler(clip_sample=False, **STABLE_DIFFUSION)
    return LDMTextToImagePipeline(kl(), LDMBertModel(config).eval(), tokenizer(), unet, scheduler)


def kl():
    torch.manual_seed(1)
    return AutoencoderKL(
        block_out_channels=(8, 8, 8, 8),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=4,
        sample_size=64,
    ).eval()


def vq():
    torch.manual_seed(2)
    return VQModel(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
        num_vq_embeddings=32,
    ).eval()


def clip():
    torch.manual_seed(3)
    config = CLIPTextConfig(
        vocab_size=64,
        hidden_size=WIDTH,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=START,
        eos_token_id=END,
        pad_token_id=END,
    )
    return CLIPTextModel(config).eval()


def tokenizer():
    """CLIP's tokenizer, with the letters as its vocabulary."""
    letters = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase)]
    vocabulary = {letter: index for index, letter in enumerate(letters)}
    vocabulary |= {"<|startoftext|>": START, "<|endoftext|>": END}
    return CLIPTokenizer(vocabulary, [], model_max_length=TOKENS)
