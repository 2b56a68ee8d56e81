from __future__ import annotations

import numpy as np
import pytest

from fastdiff import _native
from fastdiff.kernels.step.reference import exponential


def test_exponential_has_the_bits_of_the_reference(level: str) -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [rng.uniform(-100, 100, 200_003), rng.normal(0, 1, 100_000), rng.normal(0, 1e-6, 10_000)]
    ).astype(np.float32)
    np.testing.assert_array_equal(_native.exponential(x), exponential(x))


def test_exponential_error_is_below_one_ulp(level: str) -> None:
    """The exhaustive maximum over all float32 of [-87, 88] is 0.9886 ulp (docs/noise.md)."""
    x = np.linspace(-87, 88, 2_000_003).astype(np.float32)
    want = np.exp(x.astype(np.float64))
    error = np.abs(_native.exponential(x) - want) / np.spacing(want.astype(np.float32))
    assert error.max() < 0.99


@pytest.mark.parametrize("value", [0.0, -0.0])
def test_exponential_of_zero_is_one(level: str, value: float) -> None:
    assert _native.exponential(np.full(3, value, np.float32)).tolist() == [1, 1, 1]


def test_exponential_is_clamped_and_passes_nan(level: str) -> None:
    got = _native.exponential(np.array([np.inf, 1e30, -np.inf, -1e30, np.nan], np.float32))
    ends = _native.exponential(np.array([88, -87], np.float32))
    assert got[:4].tolist() == [ends[0], ends[0], ends[1], ends[1]]
    assert np.isfinite(ends).all()
    assert ends[1] >= np.finfo(np.float32).tiny
    assert np.isnan(got[4])
