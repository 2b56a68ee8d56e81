"""Scaled dot-product attention: softmax(scale q k^T) v, without masks.

:func:`attention` is one node, ``torch.ops.fastdiff.attention``, for compilers and exporters. On a
CPU, torch's own operator computes it. On a GPU there are three implementations: torch's own, and
flash attention in Triton and in CUDA C++. The fastest one for a class of shapes is measured inside
:func:`choosing`, or by :func:`choose`. Where nothing was measured, torch's own is used.
:func:`choices` says what was chosen and why. ``reference`` is the definition in NumPy.
"""

from fastdiff.kernels.attention.dispatch import (
    MAX_HEAD_SIZE,
    AttentionChoice,
    ShapeClass,
    choices,
    choose,
    choosing,
)
from fastdiff.kernels.attention.operator import attention

__all__ = [
    "MAX_HEAD_SIZE",
    "AttentionChoice",
    "ShapeClass",
    "attention",
    "choices",
    "choose",
    "choosing",
]
