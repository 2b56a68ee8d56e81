"""What each GPU kernel may use: a line for each kernel, for every architecture it is built for.

Columns are explained by :class:`gpu_contracts.Contract`. All kernels: no spills, no stack frame.
"""

from gpu_contracts import Contract

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
"""Where every contract is checked."""

MMA = "HMMA.16816.F32"  # mma.sync m16n8k16

# fmt: off
CUDA = {
    #                                         registers      128-bit loads  128-bit stores
    "cuda step":                     Contract(registers=96,  wide_loads=13, wide_stores=7),
    "cuda gather":                   Contract(registers=48,  wide_loads=1,  wide_stores=2),
    "cuda fill_normal":              Contract(registers=40,  wide_loads=0,  wide_stores=1),
}

TRITON = {
    # float16, rows of a multiple of 16 elements
    "triton step":                   Contract(registers=96,  wide_loads=13, wide_stores=7),
    "triton gather":                 Contract(registers=32,  wide_loads=1,  wide_stores=2),
    "triton fill_normal":            Contract(registers=40,  wide_loads=0,  wide_stores=2),
}

TRITON_VARIANTS = {
    # other specialisations, on sm_90 alone; odd rows are not aligned
    "triton step, fp32":             Contract(registers=96,  wide_loads=8,  wide_stores=4),
    "triton step, bf16, odd size":   Contract(registers=128, wide_loads=0,  wide_stores=0),
    "triton step, one element":      Contract(registers=128, wide_loads=0,  wide_stores=0),
    "triton fill_normal, odd size":  Contract(registers=48,  wide_loads=0,  wide_stores=0),
}

CUDA_ATTENTION = {
    # by padded head size; float16 and bfloat16 alike. The ceilings let two blocks of up to 128
    # threads (heads up to 64) or one of 256 share a multiprocessor.
    32:  Contract(registers=200, wide_loads=12, wide_stores=4,  tensor_core=MMA, fma=True),
    48:  Contract(registers=200, wide_loads=20, wide_stores=6,  tensor_core=MMA, fma=True),
    64:  Contract(registers=248, wide_loads=20, wide_stores=8,  tensor_core=MMA, fma=True),
    80:  Contract(registers=160, wide_loads=20, wide_stores=5,  tensor_core=MMA, fma=True),
    128: Contract(registers=192, wide_loads=20, wide_stores=8,  tensor_core=MMA, fma=True),
    160: Contract(registers=240, wide_loads=40, wide_stores=10, tensor_core=MMA, fma=True),
}

TRITON_ATTENTION = {
    # by head size and queries
    (64, 4096):  Contract(registers=192, wide_loads=12, wide_stores=4,  fma=True),
    (160, 4096): Contract(registers=255, wide_loads=12, wide_stores=10, fma=True),
}

TRITON_ATTENTION_VARIANTS = {
    # other head sizes, partial tiles and the small tile, where registers are scarcest
    ("sm_80", 32, 4096):   Contract(registers=128, wide_loads=6,  wide_stores=2, fma=True),
    ("sm_120", 40, 77):    Contract(registers=200, wide_loads=6,  wide_stores=3, fma=True),
    ("sm_120", 80, 1000):  Contract(registers=255, wide_loads=12, wide_stores=5, fma=True),
    ("sm_80", 128, 64):    Contract(registers=255, wide_loads=12, wide_stores=8, fma=True),
    ("sm_100", 128, 4096): Contract(registers=224, wide_loads=12, wide_stores=8, fma=True),
}
# fmt: on

TENSOR_CORES = {
    "sm_80": (MMA, "mma.sync.aligned.m16n8k16"),
    "sm_90": ("HGMMA", "wgmma.mma_async"),
    "sm_100": ("", "tcgen05.mma"),  # UTCHMMA has no modifiers, by which contracts know opcodes
    "sm_120": (MMA, "mma.sync.aligned.m16n8k16"),
}
"""What Triton multiplies with, in machine code and in PTX."""

SQUARE_ROOTS = {"triton step": 4, "triton fill_normal": 4, "triton gather": 0}
"""Correctly rounded square roots in each Triton kernel that promises bits."""

MOST_SHARED_BYTES = 4096
"""Dynamic shared memory of the Triton kernels: a chunk of float32 on its way to another layout."""

RESERVED_SHARED_BYTES = {"sm_80": 0, "sm_90": 1024, "sm_100": 1024, "sm_120": 1024}
"""What the system keeps of a block's dynamic shared memory, where cuobjdump counts it."""

BLOCK_SHARED_BYTES = {
    "sm_80": 163 * 1024,
    "sm_90": 227 * 1024,
    "sm_100": 227 * 1024,
    "sm_120": 99 * 1024,
    "amd": 64 * 1024,
}
"""What a block may ask for (CUDA C++ Programming Guide, compute capabilities)."""
