"""What the compiled Triton kernels may use, beside the CUDA ones of ``tests/kernels/contracts.py``.

Columns are explained by :class:`gpu_contracts.Contract`. All kernels: no spills, no stack frame.
"""

from gpu_contracts import Contract

# fmt: off
CONTRACTS = {
    # fp16, rows of a multiple of 16 elements          registers      128-bit loads  128-bit stores
    "triton step":                            Contract(registers=96,  wide_loads=13, wide_stores=7),
    "triton gather":                          Contract(registers=32,  wide_loads=1,  wide_stores=2),
    "triton fill_normal":                     Contract(registers=40,  wide_loads=0,  wide_stores=2),
    "triton group_norm":                      Contract(registers=64,  wide_loads=2,  wide_stores=2),
    "triton group_norm, channels last":       Contract(registers=80,  wide_loads=4,  wide_stores=2),
    "triton modulated_layer_norm":            Contract(registers=48,  wide_loads=6,  wide_stores=2),
}
"""Checked on every architecture."""

VARIANTS = {
    # other specialisations; odd rows are not aligned
    "triton step, fp32":                      Contract(registers=96,  wide_loads=8,  wide_stores=4),
    "triton step, bf16, odd size":            Contract(registers=128, wide_loads=0,  wide_stores=0),
    "triton step, one element":               Contract(registers=128, wide_loads=0,  wide_stores=0),
    "triton fill_normal, odd size":           Contract(registers=48,  wide_loads=0,  wide_stores=0),
    "triton group_norm, odd size":            Contract(registers=96,  wide_loads=0,  wide_stores=0),
    "triton modulated_layer_norm, odd size":  Contract(registers=48,  wide_loads=0,  wide_stores=0),
}
"""Checked on one architecture."""
# fmt: on

MOST_SHARED = 4096
"""Bytes of dynamic shared memory: one chunk of float32, on its way to another layout."""
RESERVED_SHARED = 1024
"""What CUDA keeps of each block's shared memory from sm_90 on, counted as static."""

SQUARE_ROOTS = {"triton step": 4, "triton fill_normal": 4, "triton gather": 0}
"""Correctly rounded square roots in each kernel that promises bits."""
