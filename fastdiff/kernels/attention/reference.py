"""Scaled dot-product attention in NumPy, from its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def attention(
    q: NDArray[Any], k: NDArray[Any], v: NDArray[Any], scale: float | None = None
) -> NDArray[np.float64]:
    """Return softmax(scale q k^T) v in float64 (arXiv 1706.03762, equation 1).

    Parameters
    ----------
    q : ndarray, (B, H, L, D)
    k, v : ndarray, (B, H, S, D)
    scale : float, optional
        1 / sqrt(D) by default.

    Returns
    -------
    ndarray, (B, H, L, D) float64
    """
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    if scale is None:
        scale = q.shape[-1] ** -0.5
    scores = scale * (q @ k.swapaxes(-1, -2))
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    out: NDArray[np.float64] = (weights @ v) / weights.sum(-1, keepdims=True)
    return out
