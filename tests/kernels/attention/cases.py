"""Inputs of attention, in memory that betrays an access out of bounds, and what is accurate."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention

from fastdiff.kernels.attention import reference

ATOL = 1e-6
"""Beside twice the error of torch in the same dtype, which can be 0."""


LAYOUTS = ("BHLD", "BLHD", "padded", "fused")
"""Of `random_inputs`."""

RANGES = ((1.0, 0.7), (30.0, None), (100.0, 0.001))
"""Magnitudes and scales; with some, scores are thousands, whose exponentials no float holds."""


class Shape(NamedTuple):
    batch: int
    heads: int
    queries: int
    keys: int
    size: int


SHAPES = [
    Shape(1, 1, 1, 1, 64),
    Shape(1, 2, 77, 63, 40),
    Shape(2, 1, 1, 77, 64),
    Shape(1, 1, 257, 257, 80),
    Shape(1, 1, 64, 1024, 128),
    Shape(1, 1, 63, 64, 160),
    Shape(1, 1, 1024, 77, 32),
    Shape(1, 3, 5, 7, 72),
    Shape(2, 2, 130, 65, 8),
    Shape(1, 1, 3, 130, 152),
]
"""Self and cross attention, every head size and some between, lengths around those of tiles."""


class Inputs(NamedTuple):
    q: torch.Tensor
    k: torch.Tensor
    v: torch.Tensor


def random_inputs(
    shape: Shape,
    dtype: torch.dtype,
    layout: str = "BLHD",
    magnitude: float = 1.0,
    device: str = "cpu",
) -> Inputs:
    """q, k and v as views of storage whose other elements are NaN.

    ``BHLD`` is contiguous, ``BLHD`` a transposed view; ``padded`` rows are 8 elements longer than
    the heads together, and in ``fused`` q, k and v of a row lie beside each other.
    """
    batch, heads, queries, keys, size = shape
    generator = torch.Generator().manual_seed(sum(shape))
    beside = 3 if layout == "fused" else 1
    views = []
    for part, length in enumerate((queries, keys, keys)):
        row = heads * size * beside + (8 if layout == "padded" else 0)
        storage = torch.full(((batch * length + 2) * row,), torch.nan, dtype=dtype, device=device)
        if layout == "BHLD":
            strides = (heads * length * size, length * size, size, 1)
        else:
            strides = (length * row, size, row, 1)
        start = row + (part * heads * size if layout == "fused" else 0)
        view = storage.as_strided((batch, heads, length, size), strides, start)
        values = magnitude * torch.randn(view.shape, generator=generator)
        views.append(view.copy_(values))
    return Inputs(*views)


def padded_output(q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A result of NaN in (B, L, H, D) storage, and the 8 elements after each row of it."""
    batch, heads, queries, size = q.shape
    row = heads * size
    storage = q.new_full((batch, queries, row + 8), torch.nan)
    return storage[..., :row].unflatten(2, (heads, size)).transpose(1, 2), storage[..., row:]


def assert_as_accurate_as_torch(
    got: torch.Tensor, inputs: Inputs, scale: float | None = None
) -> None:
    """Within twice the error of torch's operator in the same dtype."""
    inputs = Inputs(*(tensor.cpu() for tensor in inputs))
    exact = torch.from_numpy(
        reference.attention(*(tensor.double().numpy() for tensor in inputs), scale=scale)
    )
    plain = scaled_dot_product_attention(*inputs, scale=scale)
    error, allowed = ((x.cpu().double() - exact).abs().max() for x in (got, plain))
    assert error <= 2 * allowed + ATOL, f"error {error:.2g}, torch's {allowed:.2g}"  # False for NaN
