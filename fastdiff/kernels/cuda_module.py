"""What all CUDA kernels need: their extension module, the state of the driver, and the launch.

``fastdiff._cuda`` is built with nvcc (``FASTDIFF_CUDA=ON``). It links the CUDA runtime statically,
so it can be imported on a machine without a driver. There, :func:`status` says what is missing, and
a launch raises Unavailable.

No kernel has been executed on a GPU yet: docs/gpu-evidence.md says what has been verified instead.
"""

from __future__ import annotations

from contextlib import nullcontext
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from fastdiff.errors import Unavailable

ELEMENT_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
"""The numbers of the element types in csrc/cuda/launch.h."""
MAX_ROWS = 65_535
"""The most rows of one launch, which are the second dimension of its grid."""


def module() -> ModuleType:
    """Return ``fastdiff._cuda``.

    Raises
    ------
    Unavailable
        If this installation of fastdiff was built without it.
    """
    try:
        return import_module("fastdiff._cuda")
    except ImportError as error:
        raise Unavailable(
            "this build of fastdiff has no CUDA kernels; build one with nvcc: 'pip install "
            "nvidia-cuda-nvcc nvidia-cuda-runtime nvidia-cuda-cccl' where there is no CUDA "
            "toolkit, then 'FASTDIFF_CUDA=ON pip install .' in the source tree; Triton's kernels "
            f"do the same ({error})"
        ) from error


def status() -> str | None:
    """Return why the CUDA kernels cannot run in this process, or None if they can."""
    try:
        reason: str | None = module().status()
    except Unavailable as error:
        return str(error)
    return reason and f"no CUDA driver or device: {reason}"


def check_device(tensor: Tensor) -> torch.device:
    """Return the device of a kernel's first tensor, on which all its others must be.

    Raises
    ------
    Unavailable
        If the kernel cannot run there.
    """
    expected = module().device
    if tensor.device.type != expected:
        raise Unavailable(
            f"the CUDA kernels take tensors on a {expected} device, got one on {tensor.device}"
        )
    return tensor.device


def address(tensor: Tensor | None) -> int:
    """Return the address of a tensor's elements, or 0 for None."""
    return 0 if tensor is None else tensor.data_ptr()


def launch(kernel: str, device: torch.device, *arguments: Any) -> None:
    """Queue a kernel on the device's current stream, and return at once.

    Raises
    ------
    Unavailable
        If the CUDA runtime reports an error, which is the message.
    """
    on_gpu = device.type == "cuda"
    stream = torch.cuda.current_stream(device).cuda_stream if on_gpu else 0
    with torch.cuda.device(device) if on_gpu else nullcontext():
        getattr(module(), kernel)(*arguments, stream)
