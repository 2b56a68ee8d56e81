"""What each GPU kernel may use: one line for each kernel, for every architecture it is built for.

Columns are explained by :class:`gpu_contracts.Contract`. All kernels: no spills, no stack frame.
"""

from gpu_contracts import Contract

ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "sm_120")
"""Where every contract is checked."""

# fmt: off
CONTRACTS = {
    #                             registers        static shared     128-bit loads  128-bit stores
    "cuda step":         Contract(registers=96,    shared_bytes=0,   wide_loads=13, wide_stores=7),
    "cuda gather":       Contract(registers=48,    shared_bytes=0,   wide_loads=1,  wide_stores=2),
    "cuda fill_normal":  Contract(registers=40,    shared_bytes=0,   wide_loads=0,  wide_stores=1),
}
# fmt: on
"""Bounds by "backend kernel"."""
