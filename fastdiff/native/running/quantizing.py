"""Eight-bit integers for a convolution: scales of its inputs and of its weights.

An input is ``x[c] = (q[c] - zero) / inputs[c]`` with q from 0 to 255, a weight ``w[n, c] =
outputs[n] inputs[c] W[n, c]`` with W from -127 to 127, so that a sum of integers needs one scale
for each output. How the range of a channel is shared between the two is SmoothQuant's (Xiao et
al., arXiv 2211.10438, equation 4, with alpha = 1/2): a channel of large activations lends some of
its size to its weights. What stands for 0 is where it loses nothing: behind a SiLU, which never
falls below -0.28, positive numbers have nearly all of the 255 steps. Nothing of that costs time,
because inputs are rounded by this backend anyway.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

MOST_TERMS = 66311
"""Of a sum: so many products of 255 and 127 fit in 32 bits (csrc/network/conv_spec.h)."""

_STEPS, _RANGE = 255, 127
_LEAST = 1e-3  # a range smaller than this part of the largest counts as this


@dataclass(frozen=True)
class Quantized:
    """What computes ``conv(x) = (sum q W - zeros) * outputs``, ``q = round(x * inputs + zero)``.

    Attributes
    ----------
    weights : array
        (N, C, kernel height, kernel width) int8.
    inputs : array
        (C,) float32: factors that take x to integers.
    outputs : array
        (N,) float32: factors that take sums to float32.
    zeros : array
        (N,) int32: `zero` times the sum of an output's weights.
    zero : array
        (1,) int32: what stands for 0, from 0 to 255.
    """

    weights: NDArray[np.int8]
    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]
    zeros: NDArray[np.int32]
    zero: NDArray[np.int32]


def quantize(weights: NDArray[np.float32], ranges: NDArray[np.float32]) -> Quantized:
    """Return the integers that stand for a convolution.

    Parameters
    ----------
    weights : array
        (N, C, kernel height, kernel width).
    ranges : array
        (2, C): the lowest and the highest input of each channel, on either side of 0. What lies
        beyond them later is clipped.
    """
    inputs, sizes = _positive(np.abs(ranges).max(0)), _positive(np.abs(weights).max((0, 2, 3)))
    shares = np.sqrt(inputs / sizes)  # of the range of a channel, that its weights take over
    low, high = (ranges / shares).min(), (ranges / shares).max()
    step = (high - low) / _STEPS if high > low else 1.0
    zero = np.rint(-low / step).astype(np.int32)
    factors = shares * step  # of a channel: the size of an integer
    scaled = weights * factors[:, None, None]
    outputs = _positive(np.abs(scaled).max((1, 2, 3))) / _RANGE
    integers = np.rint(scaled / outputs[:, None, None, None]).astype(np.int8)
    return Quantized(
        integers,
        (1 / factors).astype(np.float32),
        outputs.astype(np.float32),
        zero * integers.sum((1, 2, 3), dtype=np.int32),
        zero.reshape(1),
    )


def _positive(sizes: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return sizes of ranges, none of them 0: what was zero so far need not stay so."""
    most = float(sizes.max())
    return np.maximum(sizes.astype(np.float64), _LEAST * most if most > 0 else 1.0)
