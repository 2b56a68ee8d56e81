"""Flash attention in CUDA C++ on tensor cores: csrc/cuda/attention.cuh."""

from __future__ import annotations

from torch import Tensor

from fastdiff.kernels import cuda_module
from fastdiff.kernels.cuda_module import ELEMENT_TYPES, address


def attention(q: Tensor, k: Tensor, v: Tensor, out: Tensor, scale: float) -> None:
    """Write softmax(scale q k^T) v to `out`, in one launch on the current stream.

    Parameters
    ----------
    q : (B, H, L, D) float16 or bfloat16
    k, v : (B, H, S, D)
    out : (B, H, L, D)
        Overwritten. All four have contiguous rows that start at multiples of 16 bytes. No size is
        0, and D is a multiple of 8 up to 160.
    scale : float
        More than 0.

    Raises
    ------
    Unavailable
        If the CUDA kernels are not built, or `q` is not where they run.
    """
    device = cuda_module.check_device(q)
    tensors = (q, k, v, out)
    batches, heads, queries, size = q.shape
    cuda_module.launch(
        "attention",
        device,
        *map(address, tensors),
        *(tensor.stride()[:3] for tensor in tensors),
        batches,
        heads,
        queries,
        k.shape[2],
        size,
        scale,
        ELEMENT_TYPES[q.dtype],
    )
