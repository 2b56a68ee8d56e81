"""Small seeded networks in the forms in which published ones are written: no copies of any code.

Each is called as ``module(x, t, **conditioning)``, for the samples that its kind is for.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


def frequencies(t: Tensor, width: int) -> Tensor:
    """Sinusoidal features of times, (B, width)."""
    steps = torch.exp(-math.log(10000) * torch.arange(width // 2) / (width // 2 - 1))
    angles = t[:, None] * steps[None, :]
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


class ConvBlock1d(nn.Module):
    """Convolution, group norm and Mish, as a diffusion policy has them."""

    def __init__(self, channels: int, out: int):
        super().__init__()
        self.conv = nn.Conv1d(channels, out, 5, padding=2)
        self.norm = nn.GroupNorm(4, out)

    def forward(self, x: Tensor) -> Tensor:
        return functional.mish(self.norm(self.conv(x)))


class FilmBlock1d(nn.Module):
    """Two blocks with a scale and a bias of the condition between them."""

    def __init__(self, channels: int, out: int, condition: int):
        super().__init__()
        self.first, self.second = ConvBlock1d(channels, out), ConvBlock1d(out, out)
        self.film = nn.Sequential(nn.Mish(), nn.Linear(condition, 2 * out))
        self.skip = nn.Conv1d(channels, out, 1) if channels != out else nn.Identity()

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        film = self.film(condition).unsqueeze(-1)
        film = film.reshape(film.shape[0], 2, -1, 1)
        scale, bias = film[:, 0, ...], film[:, 1, ...]
        return self.second(scale * self.first(x) + bias) + self.skip(x)


class PolicyUNet(nn.Module):
    """A U-Net over the time of actions (16, 7) given observations (20,): Chi et al. 2023."""

    shape = (16, 7)
    inputs: ClassVar[dict[str, object]] = {"observation": (20,)}

    def __init__(self, widths: tuple[int, ...] = (16, 32)):
        super().__init__()
        steps = 16
        self.time = nn.Sequential(nn.Linear(steps, 32), nn.Mish(), nn.Linear(32, steps))
        condition, sizes = steps + 20, [7, *widths]
        self.down = nn.ModuleList()
        for i, (a, b) in enumerate(pairwise(sizes)):
            last = i == len(widths) - 1
            shrink = nn.Identity() if last else nn.Conv1d(b, b, 3, 2, 1)
            self.down.append(
                nn.ModuleList([FilmBlock1d(a, b, condition), FilmBlock1d(b, b, condition), shrink])
            )
        self.middle = FilmBlock1d(widths[-1], widths[-1], condition)
        self.up = nn.ModuleList()
        for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
            grow = nn.ConvTranspose1d(b, b, 4, 2, 1)
            self.up.append(
                nn.ModuleList(
                    [FilmBlock1d(2 * a, b, condition), FilmBlock1d(b, b, condition), grow]
                )
            )
        self.last = nn.Sequential(ConvBlock1d(widths[0], widths[0]), nn.Conv1d(widths[0], 7, 1))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        condition = torch.cat([self.time(frequencies(t, 16)), observation], dim=-1)
        x, kept = x.moveaxis(-1, -2), []
        for first, second, shrink in self.down:
            x = second(first(x, condition), condition)
            kept.append(x)
            x = shrink(x)
        x = self.middle(x, condition)
        for first, second, grow in self.up:
            x = grow(second(first(torch.cat((x, kept.pop()), dim=1), condition), condition))
        return self.last(x).moveaxis(-1, -2)


class TableMLP(nn.Module):
    """A perceptron over the columns of a table, with a label: in the form of TabDDPM."""

    shape = (14,)
    inputs: ClassVar[dict[str, object]] = {"class_labels": 3}

    def __init__(self):
        super().__init__()
        self.proj, self.label = nn.Linear(14, 32), nn.Embedding(3, 32)
        self.time = nn.Sequential(nn.Linear(32, 32), nn.SiLU(), nn.Linear(32, 32))
        self.body = nn.Sequential(
            nn.Linear(32, 64), nn.ReLU(), nn.Dropout(0.1), nn.Linear(64, 32), nn.ReLU()
        )
        self.head = nn.Linear(32, 14)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        emb = self.time(frequencies(t, 32)) + functional.silu(self.label(class_labels))
        return self.head(self.body(self.proj(x) + emb))


class AudioUNet(nn.Module):
    """Strided convolutions over sound and back, with wide kernels and snake-like activations."""

    shape = (2, 128)
    inputs: ClassVar[dict[str, object]] = {}

    def __init__(self):
        super().__init__()
        self.time = nn.Linear(16, 24)
        self.inward = nn.Conv1d(2, 12, 7, padding=3)
        self.down = nn.Conv1d(12, 24, 8, stride=4, padding=2)
        self.middle = nn.Conv1d(24, 24, 5, padding=2, padding_mode="reflect")
        self.norm = nn.GroupNorm(6, 24)
        self.up = nn.ConvTranspose1d(24, 12, 8, stride=4, padding=2)
        self.outward = nn.Conv1d(24, 2, 7, padding=3)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        skip = functional.leaky_relu(self.inward(x), 0.2)
        hidden = self.down(skip) + self.time(frequencies(t, 16)).unsqueeze(-1)
        hidden = hidden + torch.sin(self.middle(functional.gelu(self.norm(hidden)))).pow(2)
        return self.outward(torch.cat([self.up(hidden), skip], 1))


class DitBlock(nn.Module):
    """A block of DiT with its own attention: the batch moves back by one axis and returns."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))

    def attend(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(y.transpose(1, 2).reshape(batch, tokens, width))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        shift1, scale1, gate1, shift2, scale2, gate2 = self.ada(c).chunk(6, dim=1)
        h = self.norm1(x) * (1 + scale1.unsqueeze(1)) + shift1.unsqueeze(1)
        x = x + gate1.unsqueeze(1) * self.attend(h)
        h = self.norm2(x) * (1 + scale2.unsqueeze(1)) + shift2.unsqueeze(1)
        return x + gate2.unsqueeze(1) * self.mlp(h)


class Dit(nn.Module):
    """A diffusion transformer on patches, with labels and a learned variance: Peebles and Xie."""

    shape = (4, 8, 8)
    inputs: ClassVar[dict[str, object]] = {"class_labels": 5}

    def __init__(self, width: int = 32, heads: int = 4, depth: int = 2):
        super().__init__()
        self.patch = nn.Conv2d(4, width, 2, stride=2)
        self.position = nn.Parameter(torch.randn(1, 16, width) * 0.02)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        self.label = nn.Embedding(6, width)
        self.blocks = nn.ModuleList(DitBlock(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.ada = nn.Sequential(nn.SiLU(), nn.Linear(width, 2 * width))
        self.head = nn.Linear(width, 2 * 2 * 8)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2) + self.position
        c = self.time(frequencies(t, 16)) + self.label(class_labels)
        for block in self.blocks:
            tokens = block(tokens, c)
        shift, scale = self.ada(c).chunk(2, dim=1)
        tokens = self.head(self.norm(tokens) * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1))
        patches = tokens.reshape(x.shape[0], 4, 4, 2, 2, 8)
        return torch.einsum("nhwpqc->nchpwq", patches).reshape(x.shape[0], 8, 8, 8)


class UVit(nn.Module):
    """A transformer with the time as a token and long skips: Bao et al. 2023."""

    shape = (3, 8, 8)
    inputs: ClassVar[dict[str, object]] = {}

    def __init__(self, width: int = 24, heads: int = 3):
        super().__init__()
        self.patch, self.heads = nn.Conv2d(3, width, 4, stride=4), heads
        self.position = nn.Parameter(torch.randn(1, 5, width) * 0.02)
        self.time = nn.Linear(16, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(4))
        self.qkv = nn.ModuleList(nn.Linear(width, 3 * width, bias=False) for _ in range(2))
        self.proj = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.mlp = nn.ModuleList(
            nn.Sequential(nn.Linear(width, 48), nn.GELU(), nn.Linear(48, width)) for _ in range(2)
        )
        self.skip = nn.Linear(2 * width, width)
        self.head, self.last = nn.Linear(width, 48), nn.Conv2d(3, 3, 3, padding=1)

    def block(self, x: Tensor, i: int) -> Tensor:
        batch, tokens, width = x.shape
        qkv = self.qkv[i](self.norms[2 * i](x)).view(batch, tokens, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        x = x + self.proj[i](y.reshape(batch, tokens, width))
        return x + self.mlp[i](self.norms[2 * i + 1](x))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        time = self.time(frequencies(t, 16)).unsqueeze(1)
        first = self.block(torch.cat((time, tokens), dim=1) + self.position, 0)
        second = self.skip(torch.cat([self.block(first, 1), first], dim=-1))
        patches = self.head(second[:, 1:]).view(x.shape[0], 2, 2, 4, 4, 3)
        return self.last(patches.permute(0, 5, 1, 3, 2, 4).reshape(x.shape))


class PreconditionedUNet(nn.Module):
    """A U-Net with adaptive group norms, pixel shuffles and preconditioning, in the form of EDM."""

    shape = (3, 8, 8)
    inputs: ClassVar[dict[str, object]] = {"class_labels": 4}

    def __init__(self, width: int = 16):
        super().__init__()
        self.label, self.map = nn.Embedding(4, 16), nn.Linear(16, 2 * width)
        self.first = nn.Conv2d(3, width, 3, padding=1)
        self.norm, self.norm2 = nn.GroupNorm(4, width), nn.GroupNorm(4, width)
        self.conv, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.squeeze = nn.Conv2d(4 * width, width, 1)
        self.last = nn.Conv2d(width, 12, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        sigma = (t / 1000 + 0.01).reshape(-1, 1, 1, 1)
        c_skip = 0.25 / (sigma.square() + 0.25)
        c_out = sigma * 0.5 / (sigma**2 + 0.25).sqrt()
        c_in = (0.25 + sigma**2).rsqrt()
        embedding = functional.silu(frequencies(sigma.flatten().log() / 4, 16))
        embedding = self.map(embedding + self.label(class_labels)).unsqueeze(2).unsqueeze(3)
        scale, shift = embedding.chunk(chunks=2, dim=1)
        h = self.first(c_in * x)
        h = h + self.depthwise(functional.silu(h))
        y = self.conv(functional.silu(self.norm(h)))
        y = functional.silu(torch.addcmul(shift, self.norm2(y), scale + 1))
        h = self.squeeze(functional.pixel_unshuffle(h + self.conv2(y), 2))
        h = functional.pixel_shuffle(self.last(h), 2)
        return c_skip * x + c_out * h


ZOO = {kind.__name__: kind for kind in (
    PolicyUNet, TableMLP, AudioUNet, Dit, UVit, PreconditionedUNet,
)}  # fmt: skip
