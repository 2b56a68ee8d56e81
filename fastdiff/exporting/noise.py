"""The noise of ``docs/noise.md`` as ONNX operators, with the same bits.

Philox works on 32-bit words, for which backends have few integer kernels. Here a word is an int64
from 0 to 2^32 - 1, and only operators are used that every backend has in int64; no operation
overflows. The four words of a block are two tensors of two, so each round is eight nodes.
"""

from __future__ import annotations

import numpy as np

from fastdiff.exporting.arithmetic import polynomial, split_exponent, square_root
from fastdiff.exporting.graph import FLOAT, Builder, OnnxValue, Operand
from fastdiff.kernels.noise.reference import COS, LOG, SIN, TWO_LN2_HIGH, TWO_LN2_LOW

_MASK = 0xFFFFFFFF
_WORD = 1 << 32
_SIGN = 1 << 31
_SWAP = 1 << 30
_ROUNDS = 10


def _pair(first: int, second: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Two words as (2, 1, 1), to meet (2, n, blocks)."""
    return np.array([first, second], np.int64).reshape(2, 1, 1)


# Less 2^32, which makes them negative and products with a word lie above -2^62.
_MULTIPLIERS = _pair(0xD2511F53 - _WORD, 0xCD9E8D57 - _WORD)
_WEYL = _pair(0xBB67AE85, 0x9E3779B9)


def round_keys(seed: OnnxValue) -> list[OnnxValue]:
    """Return the keys of the ten rounds of Philox, (2, n, 1) each, the high word first.

    Parameters
    ----------
    seed : OnnxValue
        (n,) int64; the 64 bits of each are the seed, so 2^63 and above are negative.
    """
    low = seed & _MASK
    high = ((seed - low) // _WORD) & _MASK
    key = seed.builder.op("Concat", high.reshape(1, -1, 1), low.reshape(1, -1, 1), axis=0)
    return [(key + r * _WEYL) & _MASK for r in range(_ROUNDS)]


def normal(
    builder: Builder, keys: list[OnnxValue], draw: Operand, tag: int, count: int
) -> OnnxValue:
    """Return elements 0 to ``count - 1`` of the noise of image 0 under each seed.

    Parameters
    ----------
    keys : list of OnnxValue
        Of `round_keys`, for n seeds.
    draw : OnnxValue or int
        Scalar int64.
    tag, count : int

    Returns
    -------
    OnnxValue
        (n, count) float32: row r has the bits of ``normal(seed[r], 0, draw, tag, count=count)`` of
        `fastdiff.kernels.noise`.
    """
    blocks = -(-count // 4)
    block = builder.op("Range", 0, blocks, 1)
    radius_words, angle_words = philox(
        block * _pair(1, 0), builder.constant(draw) * _pair(0, 1) + _pair(tag << 24, 0), keys
    )
    radius = square_root(minus_two_log(radius_words))
    axis = np.array([3])
    points = [builder.op("Unsqueeze", radius * z, axis) for z in unit_circle(angle_words)]
    elements = builder.op("Concat", *points, axis=3)  # (pair, n, block, member of the pair)
    elements = builder.op("Transpose", elements, perm=[1, 2, 0, 3]).reshape(-1, 4 * blocks)
    return elements if count == 4 * blocks else elements.slice(1, 0, count)


def philox(even: OnnxValue, odd: OnnxValue, keys: list[OnnxValue]) -> tuple[OnnxValue, OnnxValue]:
    """Philox4x32-10 of the counter words (c0, c2) and (c3, c1); return (c0, c2) and (c1, c3).

    With the odd words in this order, the high halves of both products meet theirs in place and
    the low halves become the next odd words; one swap a round is left.
    """
    swap = np.array([1, 0])
    for key in keys:
        product = even * _MULTIPLIERS  # lacks 2^32 even, which only the high half feels
        low = product & _MASK
        high = even + (product - low) // _WORD  # the division is exact
        even, odd = (high ^ odd ^ key).gather(swap), low
    return even, odd.gather(swap)


def minus_two_log(words: OnnxValue) -> OnnxValue:
    """-2 ln u for u = (word // 2 + 1/2) / 2^31."""
    n, m = split_exponent((words // 2).cast(FLOAT) + 0.5)
    n = (n - 31).cast(FLOAT)
    f = m - 1.0
    ff = f * f
    t = ff - (f * ff) * polynomial(LOG, f)
    t = t - n * TWO_LN2_LOW
    t = t - (f + f)
    return t - n * TWO_LN2_HIGH


def unit_circle(words: OnnxValue) -> tuple[OnnxValue, OnnxValue]:
    """Points of the unit circle: bit 31 signs the cosine, bit 30 swaps, 30 bits are the angle."""
    # (word << 2 | 2) as a signed 32-bit integer.
    angle = ((words * 4 + (_SIGN + 2)) & _MASK) - _SIGN
    x = angle.cast(FLOAT) * 2.0**-31
    xx = x * x
    sine = polynomial(SIN, xx) * x
    cosine = polynomial(COS, xx)
    cosine = (words >= _SIGN).where(-cosine, cosine)
    swap = (words & _SWAP) >= _SWAP
    return swap.where(sine, cosine), swap.where(cosine, sine)
