"""The solver step in NumPy, with one line for each line of ``docs/contracts.md``.

In float64 it is the reference for accuracy. In float32 each line rounds once, and the result has
the bits of the compiled kernels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from fastdiff.kernels.noise import TAG_STEP
from fastdiff.kernels.noise.reference import normal, polynomial

X, D, M, Z = 0, 5, 6, 7
HISTORY = (1, 2, 3, 4)

EXP_LOW, EXP_HIGH = -87.0, 88.0
EXP_COEFFICIENTS = tuple(
    np.float32(float.fromhex(digits))
    for digits in (
        "0x1.6a4ce4p-10",
        "0x1.123988p-7",
        "0x1.5558bp-5",
        "0x1.555492p-3",
        "0x1.fffffcp-2",
    )
)
LOG2_E = np.float32(float.fromhex("0x1.715476p+0"))
LN2_HIGH = np.float32(float.fromhex("0x1.62e4p-1"))
LN2_LOW = np.float32(float.fromhex("0x1.7f7d1cp-20"))


def exponential(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return e^x for x clamped to [-87, 88], with the bits of the compiled kernels.

    Cody and Waite's reduction writes x = n ln 2 + r, and a polynomial in r gives e^r.
    """
    x = np.clip(x, np.float32(EXP_LOW), np.float32(EXP_HIGH))
    shift = np.float32(1.5 * 2**23)  # adding it rounds to an integer
    shifted = x * LOG2_E
    shifted = shifted + shift
    n = shifted - shift
    high = n * LN2_HIGH  # exact
    low = n * LN2_LOW
    r = x - high
    r = r - low
    p = polynomial(EXP_COEFFICIENTS, r) * (r * r)
    p = p + r
    mantissa = p + np.float32(1)
    exponent = np.where(np.isnan(n), np.float32(0), n).astype(np.int32)
    result: NDArray[np.float32] = mantissa * ((exponent + 127) << 23).view(np.float32)
    return result


def step(
    *,
    table: NDArray[np.void],
    rows: NDArray[np.void],
    state: NDArray[Any],
    output: NDArray[Any],
    history: NDArray[Any] | None = None,
    next_input: NDArray[Any] | None = None,
    denoised: NDArray[Any] | None = None,
    dtype: DTypeLike = np.float64,
) -> NDArray[np.uint8]:
    """Take one solver step of each row of a batch, in place.

    The arguments are those of :func:`fastdiff.kernels.step.step`, as NumPy arrays of any floating
    dtype. Arithmetic is done in ``dtype``. Results are rounded to the dtypes of the arrays.

    Returns
    -------
    ndarray, (B,) uint8
        1 if an m, v or x' of the row is not finite, else 0.
    """
    real = np.dtype(dtype).type
    n = state.shape[1]
    if history is None:
        history = np.empty((0, *state.shape), state.dtype)
    not_finite = np.zeros(len(rows), np.uint8)
    for r, row in enumerate(rows):
        entry, slot = table[row["table_row"]], row["slot"]
        x_row, h_row = entry["x"].astype(dtype), entry["h"].astype(dtype)
        p, q, clip, w = (real(entry[name]) for name in ("p", "q", "clip", "w"))
        counts = (x_row != 0) | (h_row != 0)

        x = state[slot].astype(dtype)
        m_c = output[row["cond"]].astype(dtype)
        m = m_c[:n]
        if row["uncond"] >= 0:
            m_u = output[row["uncond"]][:n].astype(dtype)
            difference = m - m_u
            difference = difference * real(row["guidance"])
            m = m_u + difference
        d = p * x
        d = d + q * m
        d = np.where(d < -clip, -clip, d)
        d = np.where(d > clip, clip, d)
        finite = np.isfinite(m)

        terms = [(X, x), (D, d)]
        if counts[M]:
            terms.append((M, m))
        terms += [(j, history[j - 1, slot].astype(dtype)) for j in HISTORY if counts[j]]
        if counts[Z]:
            z = normal(int(row["seed"]), int(row["image"]), int(row["draw"]), TAG_STEP, 0, n)
            z = z.astype(dtype)
            if w != 0:
                v = m_c[n : 2 * n]
                finite = finite & np.isfinite(v)
                z = _exp(w * v) * z
            terms.append((Z, z))

        next_state = _combine(x_row, terms)
        finite = finite & np.isfinite(next_state)
        if entry["dst"] != 0:
            history[entry["dst"] - 1, slot] = _combine(h_row, terms)
        state[slot] = next_state
        if denoised is not None:
            denoised[slot] = d
        if next_input is not None:
            next_input[slot] = real(entry["c_in_next"]) * next_state
        not_finite[r] = not finite.all()
    return not_finite


def _combine(coefficients: NDArray[Any], terms: list[tuple[int, NDArray[Any]]]) -> NDArray[Any]:
    """Return the sum of coefficients times columns, added from left to right."""
    (column, values), *rest = terms
    total: NDArray[Any] = coefficients[column] * values
    for column, values in rest:
        total = total + coefficients[column] * values
    return total


def _exp(x: NDArray[Any]) -> NDArray[Any]:
    if x.dtype == np.float32:
        return exponential(x)
    result: NDArray[Any] = np.exp(np.clip(x, EXP_LOW, EXP_HIGH))
    return result
