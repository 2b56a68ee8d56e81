"""Strict float32 arithmetic in ONNX: the functions of ``fastdiff.kernels``, operator by operator.

Additions and multiplications are those of the kernels in the same order, so a backend that computes
each node in IEEE float32 gives the kernels' bits. Where the kernels look at the bits of a float,
which ONNX cannot below opset 26, exact comparisons and exact powers of two take their place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from fastdiff.exporting.graph import DOUBLE, FLOAT, INT64, OnnxValue
from fastdiff.kernels.step.reference import (
    EXP_COEFFICIENTS,
    EXP_HIGH,
    EXP_LOW,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
)

_SMALLEST, _LARGEST = -126, 127  # exponents of the normal float32 numbers
_POWERS_OF_TWO = np.ldexp(np.float32(1), np.arange(_SMALLEST, _LARGEST + 1)).astype(np.float32)
_SQRT_HALF = np.float32(math.sqrt(0.5))
_SQRT_TWO = np.float32(2) * _SQRT_HALF
_SHIFT = 1.5 * 2**23  # adding it rounds a float32 to an integer


def polynomial(coefficients: Iterable[np.float32], x: OnnxValue) -> OnnxValue:
    """Horner's rule, highest power first."""
    highest, *lower = coefficients
    p = x.builder.constant(highest)
    for coefficient in lower:
        p = p * x + coefficient
    return p


def power_of_two(n: OnnxValue) -> OnnxValue:
    """2^n exactly, for int64 n from -126 to 127."""
    return n.builder.constant(_POWERS_OF_TWO).gather(n - _SMALLEST)


def split_exponent(x: OnnxValue) -> tuple[OnnxValue, OnnxValue]:
    """Split positive x into int64 n and float32 m with x = 2^n m and m in [sqrt(1/2), sqrt(2)).

    The logarithm, which backends may round as they like, only guesses n; two exact comparisons set
    right a guess that is one off, so the result does not depend on it.
    """
    guess = x.builder.op("Round", x.builder.op("Log", x) * (1 / math.log(2))).cast(INT64)
    m = x * power_of_two(-guess)
    n = guess + (m >= _SQRT_TWO).cast(INT64) - (m < _SQRT_HALF).cast(INT64)
    return n, x * power_of_two(-n)


def square_root(x: OnnxValue) -> OnnxValue:
    """sqrt(x), correctly rounded.

    Backends may approximate the float32 root. That of the float64 root, rounded, is exact for each
    of them: 53 bits are more than 2 * 24 + 2 (Figueroa, "When is double rounding innocuous?").
    """
    return x.builder.op("Sqrt", x.cast(DOUBLE)).cast(FLOAT)


def exponential(x: OnnxValue) -> OnnxValue:
    """e^x for x clamped to [-87, 88], with the bits of ``fastdiff.kernels``."""
    x = x.builder.op("Clip", x, np.float32(EXP_LOW), np.float32(EXP_HIGH))
    n = (x * LOG2_E + _SHIFT) - _SHIFT
    r: OnnxValue = (x - n * LN2_HIGH) - n * LN2_LOW
    mantissa = (polynomial(EXP_COEFFICIENTS, r) * (r * r) + r) + 1.0
    return mantissa * power_of_two(n.cast(INT64))
