"""What all Triton kernels need: the import of Triton, checks of their tensors, and the launch.

Triton comes with the CUDA and ROCm builds of torch, and on Linux as ``pip install triton``. It is
imported only when a kernel is used. If ``TRITON_INTERPRET=1`` is set before that, kernels run in
Triton's interpreter, on tensors in CPU memory.

No kernel has been executed on a GPU yet: docs/gpu-evidence.md says what has been verified instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fastdiff.errors import Unavailable

if TYPE_CHECKING:
    import triton
    import triton.language as tl

__all__ = [
    "MAX_ELEMENTS",
    "block",
    "check_device",
    "interpreting",
    "launch",
    "missing",
    "status",
    "tl",
    "triton",
]

_MODULES = {"triton": "triton", "tl": "triton.language"}
_TO_INSTALL = (
    "Triton is not installed; 'pip install fastdiff-runtime[gpu]' brings it on Linux, as the CUDA "
    "and ROCm builds of torch do"
)

BLOCK = 1024
"""The elements of one program: eight for each of its 128 threads, 128 bits of a 16-bit dtype."""
INTERPRETED_BLOCK = 1 << 16
"""The elements of one program in the interpreter, whose time depends on the number of programs."""
MAX_ELEMENTS = 2**31 - INTERPRETED_BLOCK
"""The most elements of a row, since offsets inside a row have 32 bits. Those of rows have 64."""


def __getattr__(name: str) -> ModuleType:
    """Import Triton for the kernel that asks for it: ``from ... import tl, triton``."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return import_module(_MODULES[name])
    except ImportError as error:
        raise Unavailable(f"{_TO_INSTALL} ({error})") from error


def interpreting() -> bool:
    """Whether kernels run in Triton's interpreter."""
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


def missing() -> str | None:
    """Return what to install before the Triton kernels can be compiled, or None if nothing."""
    return _TO_INSTALL if find_spec("triton") is None else None


def status() -> str | None:
    """Return why the Triton kernels cannot run in this process, or None if they can.

    It imports nothing and does not start a device context.
    """
    if reason := missing():
        return reason
    if interpreting() or torch.cuda.is_available():
        return None
    return f"torch {torch.__version__} finds no GPU; TRITON_INTERPRET=1 runs the kernels slowly"


def check_device(tensor: Tensor) -> torch.device:
    """Return the device of a kernel's first tensor, on which all its others must be.

    Raises
    ------
    Unavailable
        If the kernel cannot run there.
    """
    device = tensor.device
    if device.type == ("cpu" if interpreting() else "cuda"):
        return device
    where = "CPU memory (TRITON_INTERPRET=1)" if interpreting() else "a GPU"
    raise Unavailable(f"the Triton kernels take tensors in {where} here, got one on {device}")


def block(size: int) -> int:
    """Return how many of ``size`` elements one program of an element-wise kernel computes."""
    if not interpreting():
        return BLOCK
    return min(INTERPRETED_BLOCK, max(64, 1 << (size - 1).bit_length()))


def launch(
    kernel: Callable[..., Any], programs: int, device: torch.device, *arguments: Any, **meta: Any
) -> None:
    """Start ``programs`` programs of a kernel on the device's current stream, and return at once.

    ``a * b + c`` is not contracted into a fused multiply-add. Kernels whose bits are specified need
    that. The others are limited by memory traffic and do not become slower.
    """
    if programs == 0:
        return
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](*arguments, enable_fp_fusion=False, **meta)  # type: ignore[index]
