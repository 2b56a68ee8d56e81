"""The CUDA attention kernel on the CPU."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import torch
from emulator import ROOT, Library

from fastdiff.kernels.cuda_module import ELEMENT_TYPES

from .cases import Inputs

KERNEL = ROOT / "csrc" / "cuda" / "attention.cuh"
ONE_SIZE = Path(__file__).with_name("one_kernel.cu")


class Arguments(ctypes.Structure):
    """AttentionArguments of csrc/cuda/attention.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("q", "k", "v", "out")),
        ("strides", ctypes.c_int64 * 12),
        *((name, ctypes.c_int32) for name in ("batches", "heads", "queries", "keys", "head_size")),
        ("scale", ctypes.c_float),
        ("type", ctypes.c_int32),
    )


def attend(library: Library, inputs: Inputs, out: torch.Tensor, scale: float) -> None:
    """What `fastdiff.kernels.attention.cuda.attention` does, with any library."""
    q, k, _ = inputs
    batch, heads, queries, size = q.shape
    tensors = (*inputs, out)
    arguments = Arguments(
        *(tensor.data_ptr() for tensor in tensors),
        (ctypes.c_int64 * 12)(*(n for tensor in tensors for n in tensor.stride()[:3])),
        *(batch, heads, queries, k.shape[2], size, scale, ELEMENT_TYPES[q.dtype]),
    )
    library.call("fastdiff_cuda_attention", ctypes.byref(arguments), None)


if __name__ == "__main__":  # in a process with sanitizers; tensors end where their memory ends
    one_kernel = Library(Path(sys.argv[1]))
    for rows in (1, 100, 129):
        q, k, result = (torch.ones(1, 2, n, 24).half() for n in (rows, rows + 30, rows))
        attend(one_kernel, Inputs(q, k, k.clone()), result.fill_(torch.nan), 0.2)
        assert (result == 1).all(), result
