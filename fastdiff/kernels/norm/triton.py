"""The fused normalizations in Triton, with float32 statistics.

A program computes the elements that share a mean: a group of one image, or a token. They are read
once if they fit in registers. Larger groups are read twice, the second time mostly from cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.kernels import triton_module
from fastdiff.kernels.tensors import FLOATS, check
from fastdiff.kernels.triton_module import MAX_ELEMENTS, tl, triton

__all__ = ["group_norm", "modulated_layer_norm"]

_ELEMENTS_PER_WARP = 512  # 16 for each thread
_RESIDENT = 8192  # elements of a group that stay in registers, on 16 warps
_CHUNK = 4096  # elements at a time of a larger group
_MAX_FEATURES = 16384


@triton.jit
def statistics(values, live, size):
    """Return mean and variance of the live elements. The others must be 0."""
    mean = tl.sum(values, 0) / size
    centred = tl.where(live, values - mean, 0.0)
    return mean, tl.sum(centred * centred, 0) / size


@triton.jit
def standardize(x, mean, variance, eps):
    """Scale to mean 0 and variance 1."""
    return (x - mean) * tl.rsqrt(variance + eps)


@triton.jit
def affine_silu(y, weight, bias, channel, live, SILU: tl.constexpr):
    """Apply weight, bias and SiLU, which follow the normalization of a group."""
    if weight is not None:
        y = y * tl.load(weight + channel, live, 0.0).to(tl.float32)
    if bias is not None:
        y = y + tl.load(bias + channel, live, 0.0).to(tl.float32)
    if SILU:
        y = y * tl.sigmoid(y)
    return y


@triton.jit
def place(i, channels, PIXELS: tl.constexpr, WIDTH: tl.constexpr, CHANNELS_LAST: tl.constexpr):
    """Return the offset of element i from the first one of its group, and its channel in it."""
    if CHANNELS_LAST:
        return i // WIDTH * channels + i % WIDTH, i % WIDTH
    return i, i // PIXELS


@triton.jit
def chunked_statistics(
    x,
    channels,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return mean and variance of a group that is read in chunks.

    Each lane keeps a running mean and the sum of squares about it (Welford 1962), which does not
    cancel if the mean is large. The lanes are then combined as by Chan, Golub and LeVeque (1983).
    """
    SIZE: tl.constexpr = PIXELS * WIDTH
    lane = tl.arange(0, BLOCK)
    means = tl.zeros((BLOCK,), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, SIZE, BLOCK):
        i = start + lane
        offset, _ = place(i, channels, PIXELS, WIDTH, CHANNELS_LAST)
        values = tl.load(x + offset, i < SIZE, 0.0).to(tl.float32)
        delta = tl.where(i < SIZE, values - means, 0.0)
        means += delta / (start // BLOCK + 1)
        squares += delta * (values - means)
    counts = ((SIZE - 1 - lane) // BLOCK + 1).to(tl.float32)
    mean = tl.sum(counts * means, 0) / SIZE
    delta = means - mean
    return mean, tl.sum(squares + counts * delta * delta, 0) / SIZE


@triton.jit
def group_norm_kernel(
    x,
    weight,
    bias,
    out,
    channels: tl.int32,
    eps: tl.float32,
    PIXELS: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    SILU: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Normalize one group of ``WIDTH`` channels of one image of ``PIXELS`` pixels."""
    SIZE: tl.constexpr = PIXELS * WIDTH
    groups = channels // WIDTH
    image = (tl.program_id(0) // groups).to(tl.int64) * channels * PIXELS
    first_channel = tl.program_id(0) % groups * WIDTH
    base = image + first_channel.to(tl.int64) * (1 if CHANNELS_LAST else PIXELS)
    lane = tl.arange(0, BLOCK)

    if SIZE <= BLOCK:
        offset, channel = place(lane, channels, PIXELS, WIDTH, CHANNELS_LAST)
        values = tl.load(x + base + offset, lane < SIZE, 0.0).to(tl.float32)
        mean, variance = statistics(values, lane < SIZE, SIZE)
        y = standardize(values, mean, variance, eps)
        y = affine_silu(y, weight, bias, first_channel + channel, lane < SIZE, SILU)
        tl.store(out + base + offset, y.to(out.dtype.element_ty), lane < SIZE)
    else:
        mean, variance = chunked_statistics(x + base, channels, PIXELS, WIDTH, CHANNELS_LAST, BLOCK)
        for start in range(0, SIZE, BLOCK):
            i = start + lane
            offset, channel = place(i, channels, PIXELS, WIDTH, CHANNELS_LAST)
            values = tl.load(x + base + offset, i < SIZE, 0.0).to(tl.float32)
            y = standardize(values, mean, variance, eps)
            y = affine_silu(y, weight, bias, first_channel + channel, i < SIZE, SILU)
            tl.store(out + base + offset, y.to(out.dtype.element_ty), i < SIZE)


@triton.jit
def modulated_layer_norm_kernel(
    x,
    shift,
    scale,
    out,
    tokens: tl.int32,
    features: tl.int32,
    shift_stride: tl.int64,
    scale_stride: tl.int64,
    eps: tl.float32,
    BLOCK: tl.constexpr,
):
    """Normalize one token."""
    image = (tl.program_id(0) // tokens).to(tl.int64)
    base = tl.program_id(0).to(tl.int64) * features
    i = tl.arange(0, BLOCK)
    live = i < features
    values = tl.load(x + base + i, live, 0.0).to(tl.float32)
    mean, variance = statistics(values, live, features)
    y = standardize(values, mean, variance, eps)
    factor = 1.0 + tl.load(scale + image * scale_stride + i, live, 0.0).to(tl.float32)
    y = y * factor + tl.load(shift + image * shift_stride + i, live, 0.0).to(tl.float32)
    tl.store(out + base + i, y.to(out.dtype.element_ty), live)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    silu: bool = False,
) -> Tensor:
    """GroupNorm, then SiLU if ``silu``, in one launch on the current stream.

    Parameters
    ----------
    x : (B, C, H, W) float32, bfloat16 or float16
        Contiguous or channels_last.
    groups : int
        Divides C.
    weight, bias : (C,) float32, bfloat16 or float16, optional
    eps : float
        Added to the variance.
    silu : bool

    Returns
    -------
    Tensor, (B, C, H, W)
        Of x's dtype and memory format.

    Raises
    ------
    InvalidArgument
        If a tensor does not fit; `InvalidShape` and `InvalidDtype` are kinds of it.
    Unavailable
        If ``x`` is not where Triton kernels run.
    """
    device = triton_module.check_device(x)
    channels_last = (
        x.dim() == 4
        and not x.is_contiguous()
        and x.is_contiguous(memory_format=torch.channels_last)
    )
    check("x", x.permute(0, 2, 3, 1) if channels_last else x, FLOATS, (None,) * 4, device)
    images, channels, height, width = x.shape
    if groups < 1 or channels % groups:
        raise InvalidArgument(f"groups must divide the {channels} channels of x, got {groups}")
    for name, parameter in (("weight", weight), ("bias", bias)):
        if parameter is not None:
            check(name, parameter, FLOATS, (channels,), device)
    if channels * height * width > MAX_ELEMENTS:
        raise InvalidShape(f"x: expected at most {MAX_ELEMENTS} elements in an image")
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    size = channels // groups * height * width
    block = triton.next_power_of_2(size) if size <= _RESIDENT else _CHUNK
    triton_module.launch(
        group_norm_kernel,
        images * groups,
        device,
        x,
        weight,
        bias,
        out,
        channels,
        eps,
        PIXELS=height * width,
        WIDTH=channels // groups,
        CHANNELS_LAST=channels_last,
        SILU=silu,
        BLOCK=block,
        num_warps=_warps(block),
    )
    return out


def modulated_layer_norm(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-6) -> Tensor:
    """LayerNorm without affine parameters, then x (1 + scale) + shift, in one launch.

    Parameters
    ----------
    x : (B, L, D) float32, bfloat16 or float16
        Contiguous; D is at most 16384.
    shift, scale : (B, D) float32, bfloat16 or float16
        Rows need not follow each other: they may be parts of one projection.
    eps : float
        Added to the variance.

    Returns
    -------
    Tensor, (B, L, D) of x's dtype

    Raises
    ------
    InvalidArgument
        If a tensor does not fit; `InvalidShape` and `InvalidDtype` are kinds of it.
    Unavailable
        If ``x`` is not where Triton kernels run.
    """
    device = triton_module.check_device(x)
    check("x", x, FLOATS, (None, None, None), device)
    images, tokens, features = x.shape
    if features > _MAX_FEATURES:
        raise InvalidShape(f"x: expected at most {_MAX_FEATURES} features, got {features}")
    for name, rows in (("shift", shift), ("scale", scale)):
        # Only each row must be contiguous.
        check(name, rows[:1] if rows.dim() == 2 else rows, FLOATS, (None, features), device)
        if len(rows) != images:
            raise InvalidShape(f"{name}: expected {images} rows, got {len(rows)}")
    out = torch.empty_like(x)
    if x.numel() == 0:
        return out
    block = triton.next_power_of_2(features)
    triton_module.launch(
        modulated_layer_norm_kernel,
        images * tokens,
        device,
        x,
        shift,
        scale,
        out,
        tokens,
        features,
        shift.stride(0),
        scale.stride(0),
        eps,
        BLOCK=block,
        num_warps=_warps(block),
    )
    return out


def _warps(block: int) -> int:
    return max(1, min(16, block // _ELEMENTS_PER_WARP))
