"""Attention as the torch operator ``fastdiff::attention``, which has no gradient.

``attention(q, k, v, scale=None) -> out``: all are (B, H, length, D). `out` is a transposed view of
contiguous (B, L, H, D), the layout in which a network uses it next.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape
from fastdiff.kernels.attention.dispatch import empty_output, run, selected


def attention(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    """Return softmax(scale q k^T) v for every head. On a GPU, softmax and sums are in float32.

    Parameters
    ----------
    q : (B, H, L, D)
    k, v : (B, H, S, D)
        Of the dtype and on the device of `q`. Any strides are allowed. Nothing is copied if the
        last stride is 1 and rows start at multiples of 16 bytes, as in views of (B, L, H, D).
    scale : float, optional
        1 / sqrt(D) by default.

    Returns
    -------
    Tensor, (B, H, L, D)
        A transposed view of contiguous (B, L, H, D).

    Raises
    ------
    InvalidArgument
        The tensors do not fit together. `InvalidShape` and `InvalidDtype` are subclasses of it.
    """
    if q.dim() != 4 or k.dim() != 4 or q.shape[:2] != k.shape[:2] or q.shape[3] != k.shape[3]:
        raise InvalidShape(
            "expected q of shape (B, H, L, D) and k of shape (B, H, S, D), "
            f"got {tuple(q.shape)} and {tuple(k.shape)}"
        )
    if v.shape != k.shape:
        raise InvalidShape(f"expected v of the shape of k, {tuple(k.shape)}, got {tuple(v.shape)}")
    for name, tensor in (("k", k), ("v", v)):
        if tensor.device != q.device:
            raise InvalidArgument(f"expected {name} on q's {q.device}, got {tensor.device}")
        if tensor.dtype != q.dtype:
            raise InvalidDtype(f"expected {name} of q's {q.dtype}, got {tensor.dtype}")
    out: Tensor = torch.ops.fastdiff.attention(q, k, v, scale)
    return out


def _on_cpu(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    return run("torch", q, k, v, _scale(q, scale))


def _on_cuda(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    scale = _scale(q, scale)
    return run(selected(q, k, v, scale), q, k, v, scale)


def _fake(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    return empty_output(q)


def _scale(q: Tensor, scale: float | None) -> float:
    return float(q.shape[-1]) ** -0.5 if scale is None else scale


_NAME = "fastdiff::attention"
torch.library.define(_NAME, "(Tensor q, Tensor k, Tensor v, float? scale=None) -> Tensor")
torch.library.impl(_NAME, "cpu")(_on_cpu)
torch.library.impl(_NAME, "cuda")(_on_cuda)
torch.library.register_fake(_NAME)(_fake)
