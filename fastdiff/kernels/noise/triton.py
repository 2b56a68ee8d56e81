"""The noise in Triton: the same bits as :mod:`.reference`.

It uses float32 addition, multiplication and the correctly rounded square root only, and no fused
multiply-add. Philox is Triton's own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument
from fastdiff.kernels import triton_module
from fastdiff.kernels.noise import reference
from fastdiff.kernels.tensors import check
from fastdiff.kernels.triton_module import tl, triton

LOG = tl.constexpr(tuple(float(c) for c in reference.LOG))
SIN = tl.constexpr(tuple(float(c) for c in reference.SIN))
COS = tl.constexpr(tuple(float(c) for c in reference.COS))
TWO_LN2_HIGH = tl.constexpr(float(reference.TWO_LN2_HIGH))
TWO_LN2_LOW = tl.constexpr(float(reference.TWO_LN2_LOW))
SQRT_HALF_BITS = tl.constexpr(0x3F3504F3)
ANGLE_UNIT = tl.constexpr(2.0**-31)

_BITS = {"draw": 32, "tag": 8}
_ELEMENT_BITS = 42


@triton.jit
def polynomial(x, coefficients: tl.constexpr, degree: tl.constexpr):
    """Return a polynomial by Horner's rule: each step is a multiplication, then an addition."""
    p = tl.full(x.shape, coefficients[0], tl.float32)
    for i in tl.static_range(1, degree + 1):
        p = p * x + coefficients[i]
    return p


@triton.jit
def minus_two_log(word):
    """Return -2 ln u for u = (word // 2 + 1/2) / 2^31, a midpoint of 2^31 equal cells of (0, 1)."""
    x = (word >> 1).to(tl.int32).to(tl.float32) + 0.5
    split = x.to(tl.int32, bitcast=True) - (SQRT_HALF_BITS + (31 << 23))
    n = (split >> 23).to(tl.float32)  # u = 2^n (1 + f)
    f = ((split & 0x7FFFFF) + SQRT_HALF_BITS).to(tl.float32, bitcast=True) - 1.0
    ff = f * f
    t = ff - (f * ff) * polynomial(f, LOG, 6)
    t = t - n * TWO_LN2_LOW
    t = t - (f + f)
    return t - n * TWO_LN2_HIGH


@triton.jit
def unit_circle(word):
    """Return points of the unit circle.

    Bit 31 is the sign of the cosine, bit 30 exchanges sine and cosine, and 30 bits are the angle.
    """
    x = ((word << 2) | 2).to(tl.int32, bitcast=True).to(tl.float32) * ANGLE_UNIT
    xx = x * x
    sine = polynomial(xx, SIN, 3) * x
    cosine = polynomial(xx, COS, 4).to(tl.uint32, bitcast=True) ^ (word & 0x80000000)
    cosine = cosine.to(tl.float32, bitcast=True)
    swap = (word & 0x40000000) != 0
    return tl.where(swap, sine, cosine), tl.where(swap, cosine, sine)


@triton.jit
def box_muller(radius_word, angle_word):
    """Return two independent standard normals for each pair of words."""
    radius = tl.sqrt_rn(minus_two_log(radius_word))
    first, second = unit_circle(angle_word)
    return radius * first, radius * second


@triton.jit
def normals(seed, image, draw, tag, quad_low, quad_high):
    """Return the four normals of each quad of elements, in order of the elements.

    ``quad_low`` holds bits 0 to 31 of the numbers of the quads, and ``quad_high`` bits 32 to 39.
    ``seed`` and ``image`` are 64-bit words; all other arguments are uint32.
    """
    top = (tag << 24) | (quad_high << 16) | ((image >> 32) & 0xFFFF).to(tl.uint32)
    w0, w1, w2, w3 = tl.philox(seed, quad_low, draw, image.to(tl.uint32), top)
    z0, z1 = box_muller(w0, w1)
    z2, z3 = box_muller(w2, w3)
    return tl.interleave(tl.interleave(z0, z2), tl.interleave(z1, z3))


@triton.jit(do_not_specialize=["draw", "tag", "first_quad"])
def fill_kernel(
    out,
    seeds,
    images,
    n: tl.int32,
    draw: tl.uint32,
    tag: tl.uint32,
    scale: tl.float32,
    first_quad: tl.int64,
    skip: tl.int32,
    BLOCK: tl.constexpr,
):
    """Fill one chunk of one row. The row begins ``skip`` elements after its first quad does."""
    draw, tag = draw.to(tl.uint32), tag.to(tl.uint32)  # the interpreter makes all integers int64
    chunks = tl.cdiv(n + skip, BLOCK)
    row = tl.program_id(0) // chunks
    chunk = tl.program_id(0) % chunks

    quad = first_quad + chunk.to(tl.int64) * (BLOCK // 4) + tl.arange(0, BLOCK // 4)
    quad_high = (quad >> 32).to(tl.uint32)
    z = normals(
        tl.load(seeds + row), tl.load(images + row), draw, tag, quad.to(tl.uint32), quad_high
    )

    i = chunk * BLOCK + tl.arange(0, BLOCK) - skip
    tl.store(out + row.to(tl.int64) * n + i, scale * z, mask=(i >= 0) & (i < n))


def fill_normal(
    out: Tensor,
    seeds: Tensor,
    images: Tensor,
    draw: int,
    tag: int,
    scale: float = 1.0,
    first: int = 0,
) -> None:
    """Fill each row with its own noise: ``out[r] = scale * normal(seeds[r], images[r], ...)``.

    It is one launch on the current stream, which allocates nothing and waits for nothing.

    Parameters
    ----------
    out : (rows, n) float32
        Contiguous, overwritten.
    seeds, images : (rows,) int64 or uint64
        The 64 bits of each row's seed and its image number, below 2^48, on the same device.
    draw, tag : int
        In [0, 2^32) and [0, 2^8), the same for all rows.
    scale : float
        Multiplies the normals, in float32.
    first : int
        Number of each row's first element; ``first + n`` is at most 2^42.

    Raises
    ------
    InvalidArgument
        If an argument is out of its range or a tensor does not fit; `InvalidShape` and
        `InvalidDtype` are subclasses of it.
    Unavailable
        If ``out`` is not where Triton kernels run.
    """
    device = triton_module.check_device(out)
    check("out", out, (torch.float32,), (None, None), device)
    rows, n = out.shape
    for name, words in (("seeds", seeds), ("images", images)):
        check(name, words, (torch.int64, torch.uint64), (rows,), device)
    for name, value in (("draw", draw), ("tag", tag)):
        if not 0 <= value < 1 << _BITS[name]:
            raise InvalidArgument(f"{name} must be in [0, 2^{_BITS[name]}), got {value}")
    if first < 0 or first + n > 1 << _ELEMENT_BITS or n > triton_module.MAX_ELEMENTS:
        raise InvalidArgument(
            f"elements must be in [0, 2^{_ELEMENT_BITS}), at most {triton_module.MAX_ELEMENTS} in "
            f"a row, got {first} to {first + n}"
        )
    if out.numel() == 0:
        return
    skip = first % 4
    block = triton_module.block(n + skip)
    programs = rows * -(-(n + skip) // block)
    triton_module.launch(
        fill_kernel,
        programs,
        device,
        out,
        seeds.view(torch.int64),
        images.view(torch.int64),
        n,
        draw,
        tag,
        scale,
        first // 4,
        skip,
        BLOCK=block,
    )
