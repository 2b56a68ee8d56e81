"""The fused normalizations in NumPy float64, from their definitions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_norm(
    x: NDArray[Any],
    groups: int,
    weight: NDArray[Any] | None = None,
    bias: NDArray[Any] | None = None,
    eps: float = 1e-5,
    silu: bool = False,
) -> NDArray[np.float64]:
    """GroupNorm (Wu and He, arXiv 1803.08494), then SiLU x / (1 + e^-x) if ``silu``.

    Parameters
    ----------
    x : ndarray, (B, C, H, W)
    groups : int
        Divides C; mean and variance are taken over the C / groups channels of each group.
    weight, bias : ndarray, (C,), optional
    eps : float
        Added to the variance.

    Returns
    -------
    ndarray, (B, C, H, W) float64
    """
    y = _standardized(x.astype(np.float64).reshape(len(x), groups, -1), eps).reshape(x.shape)
    if weight is not None:
        y = y * weight.astype(np.float64)[:, None, None]
    if bias is not None:
        y = y + bias.astype(np.float64)[:, None, None]
    return y / (1 + np.exp(-y)) if silu else y


def modulated_layer_norm(
    x: NDArray[Any], shift: NDArray[Any], scale: NDArray[Any], eps: float = 1e-6
) -> NDArray[np.float64]:
    """LayerNorm without affine parameters, then x (1 + scale) + shift: adaLN of DiT.

    Peebles and Xie, "Scalable diffusion models with transformers", arXiv 2212.09748, section 3.2.

    Parameters
    ----------
    x : ndarray, (B, L, D)
    shift, scale : ndarray, (B, D)
    eps : float
        Added to the variance.

    Returns
    -------
    ndarray, (B, L, D) float64
    """
    y = _standardized(x.astype(np.float64), eps)
    return y * (1 + scale.astype(np.float64)[:, None]) + shift.astype(np.float64)[:, None]


def _standardized(x: NDArray[np.float64], eps: float) -> NDArray[np.float64]:
    """Scale to mean 0 and variance 1 along the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    standardized: NDArray[np.float64] = centred / np.sqrt(variance + eps)
    return standardized
