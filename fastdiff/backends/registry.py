"""The backends there are. A new backend is a file beside this one and a line in BACKENDS."""

from __future__ import annotations

from pathlib import Path

from fastdiff.backends.base import Backend, BackendStatus, Denoiser
from fastdiff.backends.cuda import DEVICE
from fastdiff.backends.eager import EagerBackend
from fastdiff.backends.fixed_batch import FixedBatch
from fastdiff.backends.inductor import InductorBackend
from fastdiff.backends.native import NativeBackend
from fastdiff.backends.onnxruntime import OnnxRuntimeBackend
from fastdiff.backends.onnxruntime_gpu import OnnxRuntimeGpuBackend
from fastdiff.backends.openvino import OpenVinoBackend
from fastdiff.backends.tensorrt import TensorRtBackend
from fastdiff.backends.tensorrt_rtx import TensorRtRtxBackend
from fastdiff.errors import Unavailable, UnknownName
from fastdiff.networks import Network

_ALL: tuple[Backend, ...] = (
    EagerBackend(),
    NativeBackend(),
    OnnxRuntimeBackend(),
    OpenVinoBackend(),
    InductorBackend(),
    EagerBackend("eager-cuda", DEVICE),
    InductorBackend("inductor-cuda", DEVICE),
    OnnxRuntimeGpuBackend("onnxruntime-cuda", "CUDAExecutionProvider"),
    OnnxRuntimeGpuBackend("onnxruntime-tensorrt", "TensorrtExecutionProvider"),
    TensorRtBackend(),
    TensorRtRtxBackend(),
)
BACKENDS: dict[str, Backend] = {backend.name: backend for backend in _ALL}


def get_backend(name: str) -> Backend:
    """Return the backend called `name`, which must be usable on this machine.

    Raises
    ------
    UnknownName
        There is no such backend.
    Unavailable
        There is, but it cannot run here; the message says what to install.
    """
    if name not in BACKENDS:
        raise UnknownName("backend", name, ["auto", *BACKENDS])
    status = BACKENDS[name].status()
    if not status.usable:
        raise Unavailable(f"backend {name!r} cannot run here: {status.detail}")
    return BACKENDS[name]


def build_denoiser(
    backend: str, network: Network, precision: str, blobs: Path | None = None
) -> Denoiser:
    """Prepare `network` for calls of any number of rows; see `Backend.build` and `get_backend`."""
    denoiser = get_backend(backend).build(network, precision, blobs)
    return denoiser if network.batch is None else FixedBatch(denoiser, network.batch)


def backend_status() -> dict[str, BackendStatus]:
    """Return the status of every backend by name."""
    return {name: backend.status() for name, backend in BACKENDS.items()}
