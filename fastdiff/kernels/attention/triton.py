"""Flash attention (arXiv 2205.14135, 2307.08691) in Triton: scores are never written to memory.

The sides of Triton's tiles are powers of two. A head is divided into two such parts rather than
padded to one: 160 becomes 128 + 32 and not 256, 72 becomes 64 + 16, and 40 becomes 32 + 16.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fastdiff.kernels import triton_module
from fastdiff.kernels.triton_module import tl, triton

_SMALLEST = 16  # side of a tile that tensor cores take
_VECTOR = 8  # 16-bit elements of a 128-bit access


@triton.jit
def load_tile(
    base, rows, columns, row_stride, row_count, HEAD_SIZE: tl.constexpr, MASK: tl.constexpr
):
    """Load part of a head, with zeros past its last column and, with MASK, past its last row."""
    inside = (columns < HEAD_SIZE)[None, :]
    if MASK:
        inside = inside & (rows < row_count)[:, None]
    return tl.load(base + rows[:, None] * row_stride + columns[None, :], mask=inside, other=0.0)


@triton.jit
def attention_kernel(
    q,
    k,
    v,
    out,
    q_batch,
    q_head,
    q_row,
    k_batch,
    k_head,
    k_row,
    v_batch,
    v_head,
    v_row,
    out_batch,
    out_head,
    out_row,
    queries,
    keys,
    scale_log2,
    HEAD_SIZE: tl.constexpr,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
    UNIT: tl.constexpr,
    QUERIES: tl.constexpr,
    KEYS: tl.constexpr,
    MASK_KEYS: tl.constexpr,
):
    """Compute QUERIES rows of one head of softmax(scale q k^T) v.

    Strides are given in units of UNIT elements, which tells the compiler that they are multiples of
    it. `scale_log2` is scale / ln 2, as exponentials are in base 2. HEAD and TAIL are those of
    `split`.
    """
    head = tl.program_id(1).to(tl.int64)
    batch = tl.program_id(2).to(tl.int64)
    first = tl.program_id(0).to(tl.int64) * QUERIES
    q += (batch * q_batch + head * q_head + first * q_row) * UNIT
    k += (batch * k_batch + head * k_head) * UNIT
    v += (batch * v_batch + head * v_head) * UNIT
    out += (batch * out_batch + head * out_head + first * out_row) * UNIT

    rows = tl.arange(0, QUERIES)
    key_rows = tl.arange(0, KEYS)
    columns = tl.arange(0, HEAD)
    row_count = queries - first
    q_head_part = load_tile(q, rows, columns, q_row * UNIT, row_count, HEAD_SIZE, True)
    result = tl.zeros([QUERIES, HEAD], tl.float32)
    if TAIL > 0:
        tail = HEAD + tl.arange(0, TAIL)
        q_tail_part = load_tile(q, rows, tail, q_row * UNIT, row_count, HEAD_SIZE, True)
        result_tail = tl.zeros([QUERIES, TAIL], tl.float32)
    top = tl.full([QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([QUERIES], tl.float32)

    for start in range(0, keys, KEYS):
        left = keys - start
        part = load_tile(k, key_rows, columns, k_row * UNIT, left, HEAD_SIZE, MASK_KEYS)
        scores = tl.dot(q_head_part, tl.trans(part))
        if TAIL > 0:
            part = load_tile(k, key_rows, tail, k_row * UNIT, left, HEAD_SIZE, MASK_KEYS)
            scores = tl.dot(q_tail_part, tl.trans(part), scores)
        if MASK_KEYS:
            scores = tl.where((key_rows < left)[None, :], scores, float("-inf"))

        # Online softmax (arXiv 1805.02867): the sums so far are rescaled to the new maximum.
        new_top = tl.maximum(top, tl.max(scores, 1) * scale_log2)
        weights = tl.exp2(scores * scale_log2 - new_top[:, None])
        rescale = tl.exp2(top - new_top)
        total = total * rescale + tl.sum(weights, 1)
        top = new_top

        weights = weights.to(v.dtype.element_ty)
        part = load_tile(v, key_rows, columns, v_row * UNIT, left, HEAD_SIZE, MASK_KEYS)
        result = tl.dot(weights, part, result * rescale[:, None])
        if TAIL > 0:
            part = load_tile(v, key_rows, tail, v_row * UNIT, left, HEAD_SIZE, MASK_KEYS)
            result_tail = tl.dot(weights, part, result_tail * rescale[:, None])
        k += KEYS * UNIT * k_row
        v += KEYS * UNIT * v_row

    pointers = out + rows[:, None] * (out_row * UNIT)
    inside = (rows < row_count)[:, None]
    result = (result / total[:, None]).to(out.dtype.element_ty)
    tl.store(pointers + columns[None, :], result, mask=inside & (columns < HEAD_SIZE)[None, :])
    if TAIL > 0:
        result_tail = (result_tail / total[:, None]).to(out.dtype.element_ty)
        inside = inside & (tail < HEAD_SIZE)[None, :]
        tl.store(pointers + tail[None, :], result_tail, mask=inside)


@dataclass(frozen=True)
class Tile:
    """The tile of one program: rows of q, rows of k and v at a time, and Triton's options."""

    queries: int
    keys: int
    num_warps: int
    num_stages: int


def split(head_size: int) -> tuple[int, int]:
    """Return powers of two whose sum covers a head: the widths HEAD and TAIL (0 for none)."""
    head = max(_SMALLEST, 1 << (head_size.bit_length() - 1))
    if head >= head_size:
        return head, 0
    tail = max(_SMALLEST, 1 << (head_size - head - 1).bit_length())
    return (head, tail) if tail < head else (2 * head, 0)


def tile(head_size: int, queries: int, capability: tuple[int, int] | None) -> Tile:
    """Return a large tile that compiles without spills for heads of 32, 40, 64, 72, 80, 128, 160.

    Parameters
    ----------
    head_size, queries : int
        D and L.
    capability : (int, int), optional
        Compute capability of an NVIDIA GPU; None for AMD.
    """
    if capability is None:
        keys, stages = 32, 2  # 64 KiB of shared memory
    elif capability[0] in (9, 10):
        keys, stages = 64 if head_size > 32 else 128, 3  # wgmma and tcgen05 spare registers
    else:
        keys, stages = 64 if sum(split(head_size)) <= 80 else 32, 3
    return Tile(128, keys, 8, stages) if queries > 64 else Tile(64, keys, 4, stages)


def launch_arguments(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    scale: float,
    capability: tuple[int, int] | None,
) -> tuple[tuple[int, int, int], tuple[Any, ...], dict[str, Any]]:
    """Return the grid of `attention_kernel`, its arguments, and its constants and options."""
    batch, heads, queries, head_size = q.shape
    keys = k.shape[2]
    strides = [stride for tensor in (q, k, v, out) for stride in tensor.stride()[:3]]
    unit = 1 if any(stride % _VECTOR for stride in strides) else _VECTOR
    chosen = tile(head_size, queries, capability)
    head, tail = split(head_size)
    strides = [stride // unit for stride in strides]
    return (
        (-(-queries // chosen.queries), heads, batch),
        (q, k, v, out, *strides, queries, keys, scale / math.log(2)),
        {
            "HEAD_SIZE": head_size,
            "HEAD": head,
            "TAIL": tail,
            "UNIT": unit,
            "QUERIES": chosen.queries,
            "KEYS": chosen.keys,
            "MASK_KEYS": keys % chosen.keys != 0,
            "num_warps": chosen.num_warps,
            "num_stages": chosen.num_stages,
            "enable_fp_fusion": True,
        },
    )


def attention(q: Tensor, k: Tensor, v: Tensor, out: Tensor, scale: float) -> None:
    """Write softmax(scale q k^T) v to `out`, in one launch on the current stream.

    Parameters
    ----------
    q : (B, H, L, D) float16 or bfloat16
    k, v : (B, H, S, D)
    out : (B, H, L, D)
        Overwritten. The last stride of all four is 1; the others are free.
    scale : float
        More than 0.

    Raises
    ------
    Unavailable
        If `q` is not where Triton kernels run.
    """
    device = triton_module.check_device(q)
    on_gpu = device.type == "cuda"
    on_nvidia = on_gpu and torch.version.hip is None
    capability = torch.cuda.get_device_capability(device) if on_nvidia else None
    grid, arguments, meta = launch_arguments(q, k, v, out, scale, capability)
    with torch.cuda.device(device) if on_gpu else nullcontext():
        attention_kernel[grid](*arguments, **meta)
