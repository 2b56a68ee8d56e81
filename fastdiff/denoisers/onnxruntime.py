"""onnxruntime on the CPU, with inputs and outputs bound to the engine's own buffers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fastdiff.denoisers.base import EngineStatus
from fastdiff.errors import ModelOutputError, Unavailable
from fastdiff.exporting import Network

_NUMPY = {torch.float32: np.float32, torch.int64: np.int64, torch.int32: np.int32}


class OnnxRuntimeEngine:
    """Runs the exported network in an onnxruntime session."""

    name = "onnxruntime"
    precisions = ("float32",)
    reads_onnx = True

    def status(self) -> EngineStatus:
        if importlib.util.find_spec("onnxruntime") is None:
            return EngineStatus(False, "not installed; pip install onnxruntime")
        import onnxruntime

        return EngineStatus(True, f"onnxruntime {onnxruntime.__version__}, CPUExecutionProvider")

    def build(self, network: Network, precision: str) -> OnnxRuntimeDenoiser:
        return OnnxRuntimeDenoiser(network, precision)


class OnnxRuntimeDenoiser:
    """A session bound to the engine's own memory: nothing is copied."""

    engine = "onnxruntime"
    input_dtype = output_dtype = torch.float32

    def __init__(self, network: Network, precision: str) -> None:
        import onnxruntime

        self.precision = precision
        self.output_channels = network.probe()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(network.onnx), options, providers=["CPUExecutionProvider"]
        )
        if self._session.get_providers()[0] != "CPUExecutionProvider":
            raise Unavailable(f"onnxruntime fell back to {self._session.get_providers()[0]}")

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        import onnxruntime

        inputs = {"x": x, "t": t, **conditioning}
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_input(
                name, "cpu", 0, _NUMPY[value.dtype], tuple(value.shape), value.data_ptr()
            )
        binding.bind_output("output", "cpu", 0, np.float32, tuple(out.shape), out.data_ptr())
        keep = (inputs, out)  # the binding holds bare addresses

        def run() -> None:
            try:
                self._session.run_with_iobinding(binding)
            except onnxruntime.capi.onnxruntime_pybind11_state.Fail as error:
                shapes = {name: tuple(value.shape) for name, value in keep[0].items()}
                raise ModelOutputError(f"onnxruntime failed on {shapes}: {error}") from error

        return run
