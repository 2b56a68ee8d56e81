"""What the backends that run on an NVIDIA GPU share.

Nothing here has been executed on a GPU yet.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from fastdiff.backends.base import BackendStatus
from fastdiff.errors import InvalidArgument

T = TypeVar("T")

DEVICE = torch.device("cuda", 0)
_DRIVER = "libcuda.so.1"


def missing_for_cuda() -> list[str]:
    """Return what stands between this process and a GPU, outermost first; empty if nothing does.

    Cheap, and starts no CUDA context.
    """
    missing = []
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        missing.append(f"no NVIDIA driver here ({_DRIVER} does not load)")
    if torch.version.cuda is None:
        missing.append(
            f"torch {torch.__version__} is built without CUDA (https://pytorch.org has the command)"
        )
    elif not missing and not torch.cuda.is_available():
        missing.append("the NVIDIA driver finds no GPU that torch can use (nvidia-smi says more)")
    return missing


def cuda_status(software: str, missing: Sequence[str] = ()) -> BackendStatus:
    """Return the status of a backend that is `software` and lacks `missing` besides a GPU."""
    reasons = [*missing, *missing_for_cuda()]
    if reasons:
        return BackendStatus(False, "; ".join(reasons))
    return BackendStatus(True, f"{software}, {torch.cuda.get_device_name(DEVICE)}")


def require_on(device: torch.device, tensors: Mapping[str, Tensor]) -> None:
    """Check where `tensors` are, for backends that get their bare addresses.

    Raises
    ------
    InvalidArgument
        One is not on `device`.
    """
    for name, tensor in tensors.items():
        if tensor.device != device:
            raise InvalidArgument(f"{name}: expected a tensor on {device}, got {tensor.device}")


def synchronize(device: torch.device) -> None:
    """Wait for all work of `device`; the host has none that is not done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def full_float32(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Keep torch's float32 in float32 on `device`, whatever the process has allowed.

    On a GPU torch rounds the inputs of float32 convolutions to TF32, 10 bits of mantissa, unless
    told otherwise. The setting is the process's: other threads compute exactly meanwhile, too.
    """
    return _without_tf32() if device.type == "cuda" else contextlib.nullcontext()


@contextlib.contextmanager
def _without_tf32() -> Iterator[None]:
    """Turn TF32 off, by both of torch's interfaces.

    Torch's exporter reads the older one, which torch refuses where the two disagree. Where they did
    before, the newer one is enough: it is what the operators go by.
    """
    backends: Any = torch.backends
    cudnn, cuda, mkldnn = backends.cudnn, backends.cuda, backends.mkldnn
    operators = (cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.matmul)
    allowed = [operator.fp32_precision for operator in operators]
    convolutions = _unless_refused(lambda: cudnn.allow_tf32)
    products = _unless_refused(torch.get_float32_matmul_precision)
    try:
        if convolutions is not None:
            cudnn.allow_tf32 = False
        if products is not None:
            torch.set_float32_matmul_precision("highest")
        for operator in operators:
            operator.fp32_precision = "ieee"
        yield
    finally:
        if convolutions is not None:
            cudnn.allow_tf32 = convolutions
        if products is not None:
            torch.set_float32_matmul_precision(products)
        for operator, precision in zip(operators, allowed, strict=True):
            operator.fp32_precision = precision


def _unless_refused(read: Callable[[], T]) -> T | None:
    try:
        return read()
    except RuntimeError:
        return None
