"""onnxruntime on the CPU, with inputs and outputs bound to the backend's own buffers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from fastdiff.backends.base import (
    Backend,
    BackendStatus,
    Denoiser,
    numpy_view,
    onnx_path,
    version_of,
)
from fastdiff.errors import ModelOutputError, Unavailable
from fastdiff.networks import Network

if TYPE_CHECKING:
    import onnxruntime

DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


class OnnxRuntimeBackend(Backend):
    """Runs the exported network in an onnxruntime session."""

    name = "onnxruntime"

    def status(self) -> BackendStatus:
        version = version_of("onnxruntime", *DISTRIBUTIONS)
        if version is None:
            return BackendStatus(False, "not installed; pip install onnxruntime")
        return BackendStatus(True, f"onnxruntime {version}, CPUExecutionProvider")

    def build(
        self, network: Network, precision: str, blobs: Path | None = None
    ) -> OnnxRuntimeDenoiser:
        return OnnxRuntimeDenoiser(network, precision)


class OnnxRuntimeDenoiser(Denoiser):
    """A session bound to the backend's own memory: nothing is copied."""

    backend = "onnxruntime"

    def __init__(self, network: Network, precision: str) -> None:
        self.precision = precision
        self.output_channels = network.probe()
        self._path = str(onnx_path(network, self.backend))
        self._session = self._start()

    def _start(self) -> onnxruntime.InferenceSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(
                self._path, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own types have no base but Exception
            raise Unavailable(f"onnxruntime refuses the network: {error}") from error

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        inputs = {"x": x, "t": t, **conditioning}
        session = self._session
        binding = session.io_binding()
        for name, value in inputs.items():
            element = numpy_view(name, value).dtype.type
            binding.bind_input(name, "cpu", 0, element, tuple(value.shape), value.data_ptr())
        binding.bind_output("output", "cpu", 0, np.float32, tuple(out.shape), out.data_ptr())
        keep = (inputs, out)  # the binding holds bare addresses

        def run() -> None:
            try:
                session.run_with_iobinding(binding)
            except Exception as error:
                shapes = {name: tuple(value.shape) for name, value in keep[0].items()}
                raise ModelOutputError(f"onnxruntime failed on {shapes}: {error}") from error

        return run

    def trim(self, batches: Collection[int]) -> None:
        """Start the session anew: it never gives back the memory of its largest call."""
        self._session = self._start()


ONNXRUNTIME = OnnxRuntimeBackend()
