"""The engines there are. A new engine is a file beside this one and a line in ENGINES."""

from __future__ import annotations

from pathlib import Path

from fastdiff.backends.base import Denoiser, Engine, EngineStatus
from fastdiff.backends.cuda import DEVICE
from fastdiff.backends.eager import EagerEngine
from fastdiff.backends.fixed_batch import FixedBatch
from fastdiff.backends.inductor import InductorEngine
from fastdiff.backends.native import NativeEngine
from fastdiff.backends.onnxruntime import OnnxRuntimeEngine
from fastdiff.backends.onnxruntime_gpu import OnnxRuntimeGpuEngine
from fastdiff.backends.openvino import OpenVinoEngine
from fastdiff.backends.tensorrt import TensorRtEngine
from fastdiff.backends.tensorrt_rtx import TensorRtRtxEngine
from fastdiff.errors import Unavailable, UnknownName
from fastdiff.networks import Network

_ALL: tuple[Engine, ...] = (
    EagerEngine(),
    NativeEngine(),
    OnnxRuntimeEngine(),
    OpenVinoEngine(),
    InductorEngine(),
    EagerEngine("eager-cuda", DEVICE),
    InductorEngine("inductor-cuda", DEVICE),
    OnnxRuntimeGpuEngine("onnxruntime-cuda", "CUDAExecutionProvider"),
    OnnxRuntimeGpuEngine("onnxruntime-tensorrt", "TensorrtExecutionProvider"),
    TensorRtEngine(),
    TensorRtRtxEngine(),
)
ENGINES: dict[str, Engine] = {engine.name: engine for engine in _ALL}


def get_engine(name: str) -> Engine:
    """Return the engine called `name`, which must be usable on this machine.

    Raises
    ------
    UnknownName
        There is no such engine.
    Unavailable
        There is, but it cannot run here; the message says what to install.
    """
    if name not in ENGINES:
        raise UnknownName("backend", name, ["auto", *ENGINES])
    status = ENGINES[name].status()
    if not status.usable:
        raise Unavailable(f"backend {name!r} cannot run here: {status.detail}")
    return ENGINES[name]


def build_denoiser(
    engine: str, network: Network, precision: str, blobs: Path | None = None
) -> Denoiser:
    """Prepare `network` for calls of any number of rows; see `Engine.build` and `get_engine`."""
    denoiser = get_engine(engine).build(network, precision, blobs)
    return denoiser if network.batch is None else FixedBatch(denoiser, network.batch)


def engine_status() -> dict[str, EngineStatus]:
    """Return the status of every engine by name."""
    return {name: engine.status() for name, engine in ENGINES.items()}
