"""The check of tensors that all device kernels use, in whichever language they are written."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def check(
    name: str,
    tensor: Tensor,
    dtypes: Sequence[torch.dtype],
    shape: tuple[int | None, ...],
    device: torch.device,
) -> None:
    """Raise unless a tensor is contiguous on ``device``, of one of ``dtypes`` and of ``shape``.

    A None in ``shape`` accepts every size.
    """
    if tensor.device != device:
        raise InvalidArgument(f"{name}: expected a tensor on {device}, got {tensor.device}")
    if tensor.dtype not in dtypes:
        expected = " or ".join(str(dtype) for dtype in dtypes)
        raise InvalidDtype(f"{name}: expected {expected}, got {tensor.dtype}")
    got = tensor.shape
    if got != shape and not (
        len(got) == len(shape)
        and all(size in (None, n) for size, n in zip(shape, got, strict=True))
    ):
        expected = ", ".join("any" if size is None else str(size) for size in shape)
        raise InvalidShape(f"{name}: expected shape ({expected}), got {tuple(got)}")
    if not tensor.is_contiguous():
        raise InvalidArgument(f"{name}: expected a contiguous tensor; pass .contiguous()")
