"""A small class-conditional U-Net for 8 x 8 handwritten digits, trained and shipped with fastdiff.

It is small enough to sample in tens of milliseconds on a CPU, and has every part of its larger
relatives: residual blocks, time and class conditioning, self-attention, classifier-free guidance.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention, silu

from fastdiff.errors import WeightsError
from fastdiff.models.weights import assign_weights, read_safetensors

NUM_CLASSES: Final = 10
"""Number of digit classes; ``class_labels`` 0 to 9 ask for a digit."""

NULL_CLASS: Final = 10
"""The label that asks for no digit in particular: the unconditional branch of guidance."""

SAMPLE_SHAPE: Final = (1, 8, 8)
"""Shape ``(C, H, W)`` of one image."""

MAX_WEIGHTS_BYTES: Final = 2_000_000
"""A weights file larger than this is refused before it is read."""

_SHIPPED_WEIGHTS: Final = Path(__file__).parent / "data" / "digits.safetensors"
_GROUPS: Final = 8


def timestep_embedding(t: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding of the time, always computed in float32.

    Parameters
    ----------
    t : Tensor, (B,)
        Time, in training steps; need not be whole.
    dim : int
        Width of the embedding, even.

    Returns
    -------
    Tensor, (B, dim) float32
        ``cos(t w_i)`` then ``sin(t w_i)``, with ``w_i = 10000^(-2 i / dim)``.

    References
    ----------
    Vaswani et al., "Attention Is All You Need", section 3.5.
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float32, device=t.device)
    angles = t.float()[:, None] * torch.exp(index * (-math.log(10_000.0) / half))
    return torch.cat([angles.cos(), angles.sin()], dim=1)


def _zeroed(layer: nn.Module) -> nn.Module:
    """Start `layer` at zero, so that the branch it closes is silent until training needs it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with a conditioning shift between them and a skip around them."""

    def __init__(
        self, in_channels: int, out_channels: int, embedding_dim: int, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(_GROUPS, in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        self.shift = nn.Linear(embedding_dim, out_channels)
        self.norm2 = nn.GroupNorm(_GROUPS, out_channels)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = _zeroed(nn.Conv2d(out_channels, out_channels, 3, padding=1))
        self.skip = (
            nn.Identity()
            if in_channels == out_channels
            else nn.Conv2d(in_channels, out_channels, 1)
        )

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Map ``(B, in_channels, H, W)`` to ``(B, out_channels, H, W)``.

        ``embedding`` is ``(B, embedding_dim)``, already activated.
        """
        h = self.conv1(silu(self.norm1(x)))
        h = h + self.shift(embedding)[:, :, None, None]
        out: Tensor = self.skip(x) + self.conv2(self.dropout(silu(self.norm2(h))))
        return out


class SelfAttention(nn.Module):
    """Multi-head self-attention over the pixels, with a skip around it."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(_GROUPS, channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = _zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(B, channels, H, W)`` to the same shape."""
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        # One reshape and one transpose serve q, k and v: (B, 3 heads, H W, channels / heads).
        qkv = self.qkv(tokens).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2)
        q, k, v = qkv.chunk(3, dim=1)
        h = scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = x + self.proj(h).transpose(1, 2).reshape(x.shape)
        return out


class DigitsUNet(nn.Module):
    """Epsilon-predicting U-Net of two resolutions, 8 x 8 and 4 x 4.

    Parameters
    ----------
    channels : int
        Width at 8 x 8, a multiple of 8; the width at 4 x 4 is twice that.
    embedding_dim : int
        Width of the time and class embedding, even.
    dropout : float
        Probability of dropping an element inside a residual block during training.

    References
    ----------
    Ho, Jain and Abbeel, "Denoising Diffusion Probabilistic Models" (2020), appendix B.
    """

    def __init__(self, channels: int = 32, embedding_dim: int = 128, dropout: float = 0.1) -> None:
        super().__init__()
        self.time_dim = wide = 2 * channels

        def block(in_channels: int, out_channels: int) -> ResidualBlock:
            return ResidualBlock(in_channels, out_channels, embedding_dim, dropout)

        self.time_mlp = nn.Sequential(
            nn.Linear(self.time_dim, embedding_dim),
            nn.SiLU(),
            nn.Linear(embedding_dim, embedding_dim),
        )
        self.class_embedding = nn.Embedding(NUM_CLASSES + 1, embedding_dim)
        self.conv_in = nn.Conv2d(SAMPLE_SHAPE[0], channels, 3, padding=1)
        self.encoder = block(channels, channels)
        self.downsample = nn.Conv2d(channels, wide, 3, stride=2, padding=1)
        self.middle1 = block(wide, wide)
        self.attention = SelfAttention(wide, heads=4)
        self.middle2 = block(wide, wide)
        self.upsample = nn.ConvTranspose2d(wide, channels, 2, stride=2)
        self.decoder1 = block(wide, channels)
        self.decoder2 = block(channels, channels)
        self.norm_out = nn.GroupNorm(_GROUPS, channels)
        self.conv_out = _zeroed(nn.Conv2d(channels, SAMPLE_SHAPE[0], 3, padding=1))

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        """Predict the noise in ``x``.

        Parameters
        ----------
        x : Tensor, (B, 1, 8, 8), in the dtype of the weights
            Noisy images ``sqrt(abar_t) x_0 + sqrt(1 - abar_t) epsilon`` with ``x_0`` in [-1, 1].
        t : Tensor, (B,) float32
            Training step of each row, 0 to 999.
        class_labels : Tensor, (B,) int64
            Digit 0 to 9 of each row, or `NULL_CLASS`.

        Returns
        -------
        Tensor, (B, 1, 8, 8), in the dtype of `x`
            The predicted epsilon.
        """
        time = timestep_embedding(t, self.time_dim).to(x.dtype)
        embedding = silu(self.time_mlp(time) + self.class_embedding(class_labels))
        x = self.conv_in(x)
        skip = self.encoder(x, embedding)
        h = self.middle1(self.downsample(skip), embedding)
        h = self.middle2(self.attention(h), embedding)
        h = self.decoder1(torch.cat([self.upsample(h), skip], dim=1), embedding)
        h = self.decoder2(h, embedding)
        epsilon: Tensor = self.conv_out(silu(self.norm_out(h)))
        return epsilon


def load_digits(path: str | os.PathLike[str] | None = None) -> DigitsUNet:
    """Load a trained `DigitsUNet`.

    Parameters
    ----------
    path : path-like, optional
        A safetensors file that ``examples/train_digits.py`` wrote; the shipped weights if None.

    Returns
    -------
    DigitsUNet
        On the CPU, in float32 and in evaluation mode. The random state is left alone.

    Raises
    ------
    WeightsError
        The file is missing, larger than `MAX_WEIGHTS_BYTES`, truncated or not a safetensors file,
        or a tensor is missing, unknown, of another shape or dtype, or not finite.
    """
    source = _SHIPPED_WEIGHTS if path is None else Path(path)
    tensors, _ = read_safetensors(source, MAX_WEIGHTS_BYTES)
    with torch.device("meta"):
        model = DigitsUNet()
    assign_weights(model, tensors, source)
    return model.eval()


def digits_schedule_config(path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Read the noise schedule that a weights file was trained with.

    Parameters
    ----------
    path : path-like, optional
        As for `load_digits`.

    Returns
    -------
    dict
        In the keys of a diffusers scheduler: ``num_train_timesteps``, ``beta_schedule``,
        ``prediction_type`` and so on.

    Raises
    ------
    WeightsError
        The file cannot be read, or its metadata hold no schedule.
    """
    source = _SHIPPED_WEIGHTS if path is None else Path(path)
    _, metadata = read_safetensors(source, MAX_WEIGHTS_BYTES)
    try:
        config = json.loads(metadata["schedule"])
    except (KeyError, json.JSONDecodeError):
        config = None
    if not isinstance(config, dict):
        raise WeightsError(
            f"expected a JSON object under the metadata key 'schedule' of {source}, "
            f"got {metadata.get('schedule')!r}; write the file with examples/train_digits.py"
        )
    return config
