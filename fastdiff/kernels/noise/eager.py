"""The noise in eager torch, on any device: the same bits as :mod:`.reference`.

Only operations that round once are used: no ``addcmul``, ``lerp`` or ``add(alpha=)``. torch's
float32 ``sqrt`` on a CPU is not correctly rounded; the float64 one, rounded to float32, is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fastdiff.kernels.noise import reference

_LOW = 0xFFFFFFFF


def _int32(words: Tensor) -> Tensor:
    """Reinterpret 32-bit words held in int64 as int32."""
    return ((words ^ 0x80000000) - 0x80000000).to(torch.int32)


def polynomial(coefficients: Sequence[np.float32], x: Tensor) -> Tensor:
    """Return a polynomial by Horner's rule, highest power first."""
    p = torch.full_like(x, float(coefficients[0]))
    for coefficient in coefficients[1:]:
        p = p * x
        p = p + float(coefficient)
    return p


def philox(counter: Sequence[Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Return Philox4x32-10 of words in int64. Their products overflow to the right low 64 bits."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * 0xD2511F53
        p1 = c2 * 0xCD9E8D57
        c0, c2 = ((p1 >> 32) & _LOW) ^ c1 ^ k0, ((p0 >> 32) & _LOW) ^ c3 ^ k1
        c1, c3 = p1 & _LOW, p0 & _LOW
        k0 = (k0 + 0x9E3779B9) & _LOW
        k1 = (k1 + 0xBB67AE85) & _LOW
    return c0, c1, c2, c3


def box_muller(radius_words: Tensor, angle_words: Tensor) -> tuple[Tensor, Tensor]:
    """Return two standard normals for each pair of words in int64."""
    x = (radius_words >> 1).to(torch.int32).to(torch.float32) + 0.5
    split = x.view(torch.int32) - (0x3F3504F3 + (31 << 23))
    n = (split >> 23).to(torch.float32)
    f = ((split & 0x7FFFFF) + 0x3F3504F3).view(torch.float32) - 1.0
    ff = f * f
    t = ff - (f * ff) * polynomial(reference.LOG, f)
    t = t - n * float(reference.TWO_LN2_LOW)
    t = t - (f + f)
    t = t - n * float(reference.TWO_LN2_HIGH)
    radius = torch.sqrt(t.double()).float()

    x = _int32(((angle_words << 2) | 2) & _LOW).to(torch.float32) * 2.0**-31
    xx = x * x
    sine = polynomial(reference.SIN, xx) * x
    cosine = polynomial(reference.COS, xx)
    cosine = torch.where((angle_words & 0x80000000) != 0, -cosine, cosine)
    swap = (angle_words & 0x40000000) != 0
    first, second = torch.where(swap, sine, cosine), torch.where(swap, cosine, sine)
    return radius * first, radius * second


def normal(
    seed: int,
    image: int,
    draw: int,
    tag: int,
    first: int,
    count: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Return elements ``first`` to ``first + count - 1`` of one image's noise, (count,) float32."""
    quads = torch.arange(first >> 2, (first + count + 3) >> 2, dtype=torch.int64, device=device)
    c1 = torch.full_like(quads, draw)
    c2 = torch.full_like(quads, image & _LOW)
    c3 = (tag << 24 | image >> 32) | (quads >> 32) << 16
    words = philox((quads & _LOW, c1, c2, c3), (seed & _LOW, seed >> 32))
    pairs = box_muller(words[0], words[1]) + box_muller(words[2], words[3])
    return torch.stack(pairs, dim=1).reshape(-1)[first & 3 :][:count]
