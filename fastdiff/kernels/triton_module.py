"""What the Triton kernels share: the import of Triton, the checks of their tensors, the launch.

Triton comes with the CUDA and ROCm builds of torch, and alone as ``pip install triton`` (Linux).
Nothing of fastdiff imports it until a kernel is asked for. With ``TRITON_INTERPRET=1`` set before
that, kernels run in Triton's interpreter, on tensors in CPU memory.

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
"""Elements of one program: eight for each of its 128 threads, 128 bits of a 16-bit dtype."""
INTERPRETED_BLOCK = 1 << 16
"""The interpreter's time goes by programs, not by elements."""
MAX_ELEMENTS = 2**31 - INTERPRETED_BLOCK
"""Of one row: offsets inside a row have 32 bits, those of rows 64."""


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
    """Say what to install before the Triton kernels can be compiled; None if nothing."""
    return _TO_INSTALL if find_spec("triton") is None else None


def status() -> str | None:
    """Say why the Triton kernels cannot run in this process; None if they can.

    Imports nothing and starts no device context.
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
    """Elements of one program of an elementwise kernel over ``size`` elements."""
    if not interpreting():
        return BLOCK
    return min(INTERPRETED_BLOCK, max(64, 1 << (size - 1).bit_length()))


def launch(
    kernel: Callable[..., Any], programs: int, device: torch.device, *arguments: Any, **meta: Any
) -> None:
    """Start ``programs`` programs of a kernel on the device's current stream, and return at once.

    Contraction of ``a * b + c`` is off: kernels that promise bits need it, the others lose nothing
    beside their memory traffic.
    """
    if programs == 0:
        return
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(programs,)](*arguments, enable_fp_fusion=False, **meta)  # type: ignore[index]
