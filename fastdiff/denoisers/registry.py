"""The engines there are. A new engine is a file beside this one and a line in ENGINES."""

from __future__ import annotations

from pathlib import Path

from fastdiff.denoisers.base import Denoiser, Engine, EngineStatus
from fastdiff.denoisers.cuda import DEVICE
from fastdiff.denoisers.eager import EagerEngine
from fastdiff.denoisers.fixed_batch import FixedBatch
from fastdiff.denoisers.inductor import InductorEngine
from fastdiff.denoisers.native import NativeEngine
from fastdiff.denoisers.onnxruntime import OnnxRuntimeEngine
from fastdiff.denoisers.onnxruntime_gpu import OnnxRuntimeGpuEngine
from fastdiff.denoisers.openvino import OpenVinoEngine
from fastdiff.denoisers.tensorrt import TensorRtEngine
from fastdiff.denoisers.tensorrt_rtx import TensorRtRtxEngine
from fastdiff.errors import Unavailable, UnknownName
from fastdiff.exporting import Network

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
