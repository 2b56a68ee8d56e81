"""The definition of fastdiff's noise in NumPy float32: each line is one IEEE binary32 operation.

Philox4x32-10 [1]_ turns a counter and a key into four random words, and Box-Muller [2]_ turns two
words into two normals. The logarithm, the sine and the cosine are polynomials, so that every device
can compute the same bits. ``docs/noise.md`` has the layout of the counter and the accuracy.

References
----------
.. [1] Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
.. [2] Box, Muller, "A note on the generation of random normal deviates", 1958.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

F = np.float32
I = np.int32  # noqa: E741
U = np.uint32
Q = np.uint64

Floats = NDArray[np.float32]
Words = NDArray[np.uint32]

_LOW = Q(0xFFFFFFFF)
_WORD = Q(32)
_SQRT_HALF_BITS = 0x3F3504F3


def _hex(*digits: str) -> tuple[np.float32, ...]:
    return tuple(F(float.fromhex(d)) for d in digits)


# Highest power first. 2 ln(1 + f) = 2f - f^2 + f^3 LOG(f) for f in [sqrt(1/2) - 1, sqrt(2) - 1).
LOG = _hex(
    "0x1.6fd9d8p-3",
    "-0x1.26cce6p-2",
    "0x1.305b68p-2",
    "-0x1.5312eep-2",
    "0x1.98edd2p-2",
    "-0x1.0005ep-1",
    "0x1.55567ap-1",
)
TWO_LN2_HIGH, TWO_LN2_LOW = _hex("0x1.62e4p+0", "0x1.7f7d1cp-19")
# sin(pi/4 x) = x SIN(x^2) and cos(pi/4 x) = COS(x^2) for |x| <= 1.
SIN = _hex("-0x1.33198ep-15", "0x1.4680a4p-9", "-0x1.4abc24p-4", "0x1.921fb6p-1")
COS = _hex("0x1.d4f632p-19", "-0x1.55b2b4p-12", "0x1.03c1b0p-6", "-0x1.3bd3ccp-2", "0x1p0")


def polynomial(coefficients: Iterable[np.float32], x: Floats) -> Floats:
    """Return a polynomial by Horner's rule: each step is a multiplication, then an addition."""
    highest, *lower = coefficients
    p = np.full_like(x, highest)
    for coefficient in lower:
        p = p * x
        p = p + coefficient
    return p


def philox(counter: Iterable[Any], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Return the words of Philox4x32-10.

    Parameters
    ----------
    counter : four array_like of int
        The counter words, broadcast against each other.
    key : (int, int)
        The key words.

    Returns
    -------
    four ndarrays of uint32
        The output words.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.atleast_1d(np.asarray(c, Q)) for c in counter))
    k0, k1 = key
    for _ in range(10):
        p0 = c0 * Q(0xD2511F53)
        p1 = c2 * Q(0xCD9E8D57)
        c0 = (p1 >> _WORD) ^ c1 ^ Q(k0)
        c2 = (p0 >> _WORD) ^ c3 ^ Q(k1)
        c1 = p1 & _LOW
        c3 = p0 & _LOW
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0.astype(U), c1.astype(U), c2.astype(U), c3.astype(U)


def minus_two_log(words: Words) -> Floats:
    """Return -2 ln u for u = (word // 2 + 1/2) / 2^31, a midpoint of 2^31 equal cells of (0, 1)."""
    x = (words >> U(1)).astype(I).astype(F)
    x = x + F(0.5)
    split = x.view(I) - I(_SQRT_HALF_BITS + (31 << 23))
    n = (split >> I(23)).astype(F)  # u = 2^n (1 + f)
    f = ((split & I(0x7FFFFF)) + I(_SQRT_HALF_BITS)).view(F)
    f = f - F(1)
    ff = f * f
    fff = f * ff
    t: Floats = fff * polynomial(LOG, f)
    t = ff - t
    low = n * TWO_LN2_LOW
    t = t - low
    double = f + f
    t = t - double
    high: Floats = n * TWO_LN2_HIGH  # exact
    result: Floats = t - high
    return result


def unit_circle(words: Words) -> tuple[Floats, Floats]:
    """Return points of the unit circle.

    Bit 31 is the sign of the cosine, bit 30 exchanges sine and cosine, and 30 bits are the angle.
    """
    x = ((words << U(2)) | U(2)).view(I).astype(F)
    x = x * F(2.0**-31)  # the angle is pi/4 x
    xx = x * x
    sine = polynomial(SIN, xx)
    sine = sine * x
    cosine = polynomial(COS, xx)
    cosine = (cosine.view(U) ^ (words & U(0x80000000))).view(F)
    swap = (words & U(0x40000000)) != 0
    return np.where(swap, sine, cosine), np.where(swap, cosine, sine)


def box_muller(radius_words: Words, angle_words: Words) -> tuple[Floats, Floats]:
    """Return two independent standard normals for each pair of words; |z| is at most 6.660."""
    radius = np.sqrt(minus_two_log(radius_words))
    first, second = unit_circle(angle_words)
    return radius * first, radius * second


def normal(seed: int, image: int, draw: int, tag: int, first: int, count: int) -> Floats:
    """Return elements ``first`` to ``first + count - 1`` of one image's noise, (count,) float32."""
    quads = np.arange(first >> 2, (first + count + 3) >> 2, dtype=Q)
    top = Q(tag << 24 | image >> 32) | (quads >> _WORD) << Q(16)
    counter = (quads & _LOW, draw, image & 0xFFFFFFFF, top)
    words = philox(counter, (seed & 0xFFFFFFFF, seed >> 32))
    pairs = box_muller(words[0], words[1]) + box_muller(words[2], words[3])
    elements = np.stack(pairs, axis=1).reshape(-1)
    return elements[first & 3 :][:count]
