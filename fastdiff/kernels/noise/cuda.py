"""The noise in CUDA C++, compiled from the same header as the CPU kernels."""

from __future__ import annotations

import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.kernels import cuda_module
from fastdiff.kernels.cuda_module import address
from fastdiff.kernels.tensors import check

_BITS = {"draw": 32, "tag": 8}
_ELEMENT_BITS = 42


def fill_normal(
    out: Tensor,
    seeds: Tensor,
    images: Tensor,
    draw: int,
    tag: int,
    scale: float = 1.0,
    first: int = 0,
) -> None:
    """Fill each row with its own noise: ``out[r] = scale * normal(seeds[r], images[r], ...)``.

    Arguments and errors are those of :func:`fastdiff.kernels.noise.triton.fill_normal`. It is one
    launch on the current stream, which allocates nothing and waits for nothing.
    """
    device = cuda_module.check_device(out)
    check("out", out, (torch.float32,), (None, None), device)
    rows, n = out.shape
    if rows > cuda_module.MAX_ROWS:
        raise InvalidShape(f"out: expected at most {cuda_module.MAX_ROWS} rows, got {rows}")
    for name, words in (("seeds", seeds), ("images", images)):
        check(name, words, (torch.int64, torch.uint64), (rows,), device)
    for name, value in (("draw", draw), ("tag", tag)):
        if not 0 <= value < 1 << _BITS[name]:
            raise InvalidArgument(f"{name} must be in [0, 2^{_BITS[name]}), got {value}")
    if first < 0 or first + n > 1 << _ELEMENT_BITS:
        raise InvalidArgument(
            f"elements must be in [0, 2^{_ELEMENT_BITS}), got {first} to {first + n}"
        )
    cuda_module.launch(
        "fill_normal",
        device,
        address(out),
        address(seeds),
        address(images),
        rows,
        n,
        first,
        draw,
        tag,
        scale,
    )
