"""The CUDA attention kernel on the CPU."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch
from emulator import ROOT, Library

KERNEL = ROOT / "csrc" / "cuda" / "attention.cuh"
EVERY_SIZE = ROOT / "csrc" / "cuda" / "attention.cu"
ONE_SIZE = Path(__file__).with_name("one_kernel.cu")
FAST_BUILD = ["-O0"]
"""The kernels are long once unrolled: they run for seconds and would compile for a minute."""

_ELEMENT_TYPES = {torch.bfloat16: 1, torch.float16: 2}  # of csrc/cuda/launch.h


class Arguments(ctypes.Structure):
    """AttentionArguments of csrc/cuda/attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out")),
        ("strides", ctypes.c_int64 * 12),
        *((name, ctypes.c_int32) for name in ("batches", "heads", "queries", "keys", "head_size")),
        ("scale", ctypes.c_float),
        ("type", ctypes.c_int32),
    )


def attend(
    library: Library,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float | None = None,
) -> torch.Tensor:
    """softmax(scale q k^T) v, in rows with 8 more elements each, which must stay untouched."""
    batch, heads, queries, size = q.shape
    storage = torch.full((batch, queries, heads * size + 8), torch.nan, dtype=q.dtype)
    strides = (*storage.stride()[:1], size, storage.stride(1), 1)
    out = storage.as_strided(q.shape, strides)
    tensors = (q, k, v, out)
    arguments = Arguments(
        *(tensor.data_ptr() for tensor in tensors),
        (ctypes.c_int64 * 12)(*(n for tensor in tensors for n in tensor.stride()[:3])),
        *(batch, heads, queries, k.shape[2], size),
        size**-0.5 if scale is None else scale,
        _ELEMENT_TYPES[q.dtype],
    )
    library.call("fastdiff_cuda_attention", ctypes.byref(arguments), None)
    assert storage[..., heads * size :].isnan().all(), "wrote past the end of a row"
    return out


if __name__ == "__main__":  # in a process with sanitizers; tensors end where their memory ends
    one_kernel = Library(Path(sys.argv[1]))
    for rows in (1, 100, 129):
        inputs = (torch.ones(1, 2, n, 24).half() for n in (rows, rows + 30, rows + 30))
        result = attend(one_kernel, *inputs)
        assert (result == 1).all(), result
