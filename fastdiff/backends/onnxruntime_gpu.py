"""onnxruntime on an NVIDIA GPU, with its CUDA or its TensorRT provider.

Not yet executed on a GPU: what is tested is the status, the refusal of every fallback and the
binding, the latter two against a recorded session.

onnxruntime answers a provider that cannot start by running on the CPU, with a log line. Here that
is an error: the session must not place any node on the CPU, and must name the provider first. A
network with an open batch axis computes shapes, which onnxruntime places on the CPU; with a fixed
one it folds them away. So there is one session per batch size.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from fastdiff.backends.base import (
    Backend,
    BackendStatus,
    Denoiser,
    onnx_path,
    require_usable,
    temporary_folder,
    version_of,
)
from fastdiff.backends.cuda import DEVICE, cuda_status, require_on
from fastdiff.backends.onnxruntime import DISTRIBUTIONS
from fastdiff.errors import InvalidDtype, ModelOutputError, Unavailable
from fastdiff.exporting.half import export_half
from fastdiff.networks import Network

_SESSIONS_KEPT = 8  # one per batch size; each holds the weights
_ELEMENTS = {
    torch.float32: np.float32,
    torch.float16: np.float16,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.bool: np.bool_,
}
#: Options that keep float32 float32: no TF32, and no precision but that of the file.
_PROVIDER_OPTIONS = {
    "CUDAExecutionProvider": {"device_id": "0", "use_tf32": "0"},
    "TensorrtExecutionProvider": {"device_id": "0", "trt_fp16_enable": "0"},
}


class OnnxRuntimeGpuBackend(Backend):
    """One GPU provider of onnxruntime.

    Parameters
    ----------
    name : str
    provider : str
        Such as ``"CUDAExecutionProvider"``.
    """

    device = DEVICE
    precisions = ("float32", "float16")

    def __init__(self, name: str, provider: str) -> None:
        self.name, self._provider = name, provider

    def status(self) -> BackendStatus:
        missing = []
        version = version_of("onnxruntime", *reversed(DISTRIBUTIONS))
        if version is None:
            missing.append("not installed; pip install onnxruntime-gpu")
        elif not _has_library(self._provider):
            hint = "pip uninstall onnxruntime; pip install onnxruntime-gpu"
            missing.append(f"onnxruntime {version} is built without {self._provider}; {hint}")
        return cuda_status(f"onnxruntime {version}, {self._provider}", missing)

    def build(
        self, network: Network, precision: str, blobs: Path | None = None
    ) -> OnnxRuntimeGpuDenoiser:
        require_usable(self)
        return OnnxRuntimeGpuDenoiser(network, precision, self.name, self._provider)


class OnnxRuntimeGpuDenoiser(Denoiser):
    """Sessions whose inputs and outputs are bound to device addresses.

    Inputs and outputs are float32 at every precision.
    """

    eager_because = "onnxruntime runs on a stream of its own and waits for it"

    def __init__(
        self,
        network: Network,
        precision: str,
        backend: str,
        provider: str,
        device: torch.device = DEVICE,
    ) -> None:
        self.backend, self.precision, self.device = backend, precision, device
        self.output_channels = network.probe()
        self._provider = provider
        self._onnx = onnx_path(network, backend)
        if precision != "float32":
            path = temporary_folder(self) / "denoiser.onnx"
            self._onnx = export_half(network, precision, path)
        self._batch_axis = _batch_axis(self._onnx)
        self._session = lru_cache(maxsize=_SESSIONS_KEPT)(self._start)
        self._session(1)  # a fallback is refused here, not in a tick

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        inputs = {"x": x, "t": t, **conditioning}
        require_on(self.device, {**inputs, "out": out})
        session = self._session(len(x))
        binding, index = session.io_binding(), self.device.index or 0
        for name, value in inputs.items():
            element = _element(name, value)
            binding.bind_input(name, "cuda", index, element, tuple(value.shape), value.data_ptr())
        binding.bind_output("output", "cuda", index, np.float32, tuple(out.shape), out.data_ptr())
        keep = (inputs, out)  # the binding holds bare addresses

        def run() -> None:
            torch.cuda.current_stream(self.device).synchronize()  # its stream does not follow ours
            try:
                session.run_with_iobinding(binding)
            except Exception as error:
                rows = len(keep[1])
                raise ModelOutputError(f"{self.backend} failed on {rows} rows: {error}") from error

        return run

    def trim(self, batches: Collection[int]) -> None:
        """Let go of all sessions; those that are needed start when they are bound."""
        self._session.cache_clear()

    def _start(self, batch: int) -> Any:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_free_dimension_override_by_name(self._batch_axis, batch)
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        chosen = [(self._provider, _PROVIDER_OPTIONS[self._provider])]
        try:
            session = onnxruntime.InferenceSession(str(self._onnx), options, providers=chosen)
        except Exception as error:  # onnxruntime's own types have no base but Exception
            raise Unavailable(f"{self._provider} refuses the network: {error}") from error
        session.disable_fallback()  # else an error in a run starts a new session on the CPU
        refuse_fallback(session.get_providers(), self._provider)
        return session


def refuse_fallback(running: list[str], asked: str) -> None:
    """Raise if the providers that a session runs on do not begin with the one asked for.

    Raises
    ------
    Unavailable
        onnxruntime fell back in silence.
    """
    if not running or running[0] != asked:
        raise Unavailable(
            f"onnxruntime was asked for {asked} and fell back to {', '.join(running) or 'nothing'}"
        )


def _has_library(provider: str) -> bool:
    """Whether the installed onnxruntime has the shared library of `provider`; imports nothing."""
    spec = importlib.util.find_spec("onnxruntime")
    if spec is None or spec.origin is None:
        return False
    part = provider.removesuffix("ExecutionProvider").lower()
    return any((Path(spec.origin).parent / "capi").glob(f"*onnxruntime_providers_{part}.*"))


def _batch_axis(path: Path) -> str:
    """Return what the file calls its open batch axis; empty if it has none."""
    graph = onnx.load(path, load_external_data=False).graph
    name: str = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    return name


def _element(name: str, value: Tensor) -> type:
    if value.dtype not in _ELEMENTS:
        known = ", ".join(map(str, _ELEMENTS))
        raise InvalidDtype(f"{name}: expected one of {known}, got {value.dtype}")
    return _ELEMENTS[value.dtype]


ONNXRUNTIME_CUDA = OnnxRuntimeGpuBackend("onnxruntime-cuda", "CUDAExecutionProvider")
ONNXRUNTIME_TENSORRT = OnnxRuntimeGpuBackend("onnxruntime-tensorrt", "TensorrtExecutionProvider")
