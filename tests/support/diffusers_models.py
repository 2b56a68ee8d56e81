"""Tiny seeded models of the diffusers classes, with inputs that they take."""

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel, UNet2DModel


def unet2d(**config):
    torch.manual_seed(0)
    return UNet2DModel(
        **{
            "sample_size": 8,
            "in_channels": 1,
            "out_channels": 1,
            "block_out_channels": (32, 32),
            "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
            "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
            "layers_per_block": 1,
            **config,
        }
    ).eval()


def unet2d_condition(**config):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        **{
            "sample_size": 8,
            "in_channels": 2,
            "out_channels": 2,
            "block_out_channels": (8, 16),
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "layers_per_block": 1,
            "cross_attention_dim": 12,
            "attention_head_dim": 2,
            "norm_num_groups": 4,
            **config,
        }
    ).eval()


def dit(**config):
    torch.manual_seed(0)
    return DiTTransformer2DModel(
        **{
            "num_attention_heads": 2,
            "attention_head_dim": 8,
            "in_channels": 2,
            "out_channels": 4,
            "num_layers": 2,
            "sample_size": 6,
            "patch_size": 2,
            "num_embeds_ada_norm": 5,
            **config,
        }
    ).eval()
