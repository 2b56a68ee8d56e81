"""Scaled dot-product attention: softmax(scale q k^T) v, without masks.

:func:`attention` is one node, ``torch.ops.fastdiff.attention``, for compilers and exporters. On a
CPU it is torch's own. On a GPU it is the fastest for the shape of three: torch's own, and flash
attention in Triton and in CUDA C++. Which one is measured inside :func:`choosing`, or by
:func:`choose`; where nothing was measured, torch's own is used. :func:`choices` tells what was
chosen and why. ``reference`` is the definition in NumPy.
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
