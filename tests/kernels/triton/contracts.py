"""What the compiled Triton kernels may use; ``tests/support/gpu_contracts.py`` has the columns."""

from __future__ import annotations

from gpu_contracts import Contract

CONTRACTS = {
    "step, fp16, 4 history slots": Contract(registers=96, wide_loads=13, wide_stores=7),
    "fill_normal": Contract(registers=40, wide_stores=2),
    "gather, fp16": Contract(registers=32, wide_loads=1, wide_stores=2),
    "group_norm, fp16": Contract(registers=64, wide_loads=2, wide_stores=2),
    "group_norm, fp16, channels_last, chunks": Contract(registers=80, wide_loads=4, wide_stores=2),
    "modulated_layer_norm, fp16": Contract(registers=48, wide_loads=6, wide_stores=2),
}
"""Rows of a multiple of 16 elements, on every architecture."""

VARIANTS = {
    "step, fp32": Contract(registers=96, wide_loads=8, wide_stores=4),
    "step, bf16, odd size": Contract(registers=128),
    "step, one element": Contract(registers=128),
    "fill_normal, odd size": Contract(registers=48),
    "group_norm, odd size": Contract(registers=96),
    "modulated_layer_norm, odd size": Contract(registers=48),
}
"""The other specialisations, on one architecture; odd rows are not aligned to 128 bits."""

SQUARE_ROOTS = {"step": 4, "fill_normal": 4, "gather": 0}
"""Correctly rounded square roots in each kernel that promises bits."""

MOST_SHARED = 4096
"""Bytes of dynamic shared memory: one chunk of float32, on its way to another layout."""
RESERVED_SHARED = 1024
"""What CUDA keeps of each block's shared memory from sm_90 on, counted as static."""
