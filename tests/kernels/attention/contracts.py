"""What the compiled attention kernels may use; ``tests/support/gpu_contracts.py`` has the columns.

By padded head size in CUDA C++, by head size in Triton; no spills anywhere. The ceilings let two
blocks of up to 128 threads (CUDA, heads up to 64) or one of 256 share a multiprocessor.
"""

from gpu_contracts import Contract

MMA = "HMMA.16816.F32"  # mma.sync m16n8k16

CUDA = {
    32: Contract(registers=200, wide_loads=12, wide_stores=4, tensor_core=MMA, fma=True),
    48: Contract(registers=200, wide_loads=20, wide_stores=6, tensor_core=MMA, fma=True),
    64: Contract(registers=248, wide_loads=20, wide_stores=8, tensor_core=MMA, fma=True),
    80: Contract(registers=160, wide_loads=20, wide_stores=5, tensor_core=MMA, fma=True),
    128: Contract(registers=192, wide_loads=20, wide_stores=8, tensor_core=MMA, fma=True),
    160: Contract(registers=240, wide_loads=40, wide_stores=10, tensor_core=MMA, fma=True),
}
"""float16 and bfloat16 alike, on every architecture."""

TENSOR_CORES = {
    "sm_80": (MMA, "mma.sync.aligned.m16n8k16"),
    "sm_90": ("HGMMA", "wgmma.mma_async"),
    "sm_100": ("", "tcgen05.mma"),  # UTCHMMA has no modifiers, by which contracts know opcodes
    "sm_120": (MMA, "mma.sync.aligned.m16n8k16"),
}
"""What Triton multiplies with, in machine code and in PTX."""

STATIC_SHARED_BYTES = {"sm_80": 0, "sm_90": 1024, "sm_100": 1024, "sm_120": 1024}
"""What the system keeps of a block's dynamic shared memory, where cuobjdump counts it."""

SHARED_BYTES = {
    "sm_80": 163 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
    "amd": 64 * 1024,
}
"""What a block may ask for (CUDA C++ Programming Guide, compute capabilities)."""

TRITON = {
    # head size, queries
    (64, 4096): Contract(registers=192, wide_loads=12, wide_stores=4, fma=True),
    (160, 4096): Contract(registers=255, wide_loads=12, wide_stores=10, fma=True),
}
"""On every architecture."""

TRITON_VARIANTS = {
    ("sm_100", 32, 4096): Contract(registers=160, wide_loads=6, wide_stores=2, fma=True),
    ("sm_80", 32, 4096): Contract(registers=128, wide_loads=6, wide_stores=2, fma=True),
    ("sm_120", 40, 77): Contract(registers=200, wide_loads=6, wide_stores=3, fma=True),
    ("sm_120", 80, 1000): Contract(registers=255, wide_loads=12, wide_stores=5, fma=True),
    ("sm_80", 128, 64): Contract(registers=255, wide_loads=12, wide_stores=8, fma=True),
    ("sm_100", 128, 4096): Contract(registers=224, wide_loads=12, wide_stores=8, fma=True),
}
"""Other head sizes, partial tiles and the small tile, where registers are scarcest."""
