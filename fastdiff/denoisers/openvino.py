"""OpenVINO on the CPU, with inputs and outputs in the engine's own buffers.

A model whose batch axis is fixed is compiled to something faster than one whose batch axis is
open (docs/engines.md has the figures), so the common batch sizes have a compiled model each. All
others share an open one: compiling takes up to half a second, which no step should wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from fastdiff.denoisers.base import EngineStatus, numpy_view, onnx_path, version_of
from fastdiff.errors import ModelOutputError, Unavailable
from fastdiff.exporting import Network

_ELEMENT_TYPES = {"float32": "f32", "bfloat16": "bf16"}
_FIXED_SIZES = (1, 2, 4, 8, 16, 32)  # each compiled model holds its own packed weights


class OpenVinoEngine:
    """Compiles the exported network with OpenVINO's CPU plugin."""

    name = "openvino"
    precisions = ("float32", "bfloat16")
    reads_onnx = True
    slow_to_build = False

    def status(self) -> EngineStatus:
        version = version_of("openvino")
        if version is None:
            return EngineStatus(False, "not installed; pip install openvino")
        return EngineStatus(True, f"openvino {version}, CPU")

    def build(self, network: Network, precision: str) -> OpenVinoDenoiser:
        return OpenVinoDenoiser(network, precision)


class OpenVinoDenoiser:
    """Inference requests that read and write the caller's tensors: nothing is copied.

    Inputs and outputs are float32 at every precision; OpenVINO rounds inside.
    """

    engine = "openvino"
    input_dtype = output_dtype = torch.float32

    def __init__(self, network: Network, precision: str) -> None:
        import openvino

        self.precision = precision
        self._core = openvino.Core()
        self._require_hardware()
        self.output_channels = network.probe()
        self._compiled = lru_cache(maxsize=None)(self._compile)
        path = str(onnx_path(network, self.engine))
        try:
            self._model = self._core.read_model(path)
            self._compiled(1)  # what cannot be compiled is refused here, not in a tick
        except RuntimeError as error:
            raise Unavailable(f"openvino refuses the network: {error}") from error

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        import openvino

        size = len(x) if len(x) in _FIXED_SIZES else None
        request = self._compiled(size).create_infer_request()
        inputs = {"x": x, "t": t, **conditioning}
        for name, value in inputs.items():
            request.set_tensor(name, openvino.Tensor(numpy_view(name, value), shared_memory=True))
        request.set_output_tensor(openvino.Tensor(out.numpy(), shared_memory=True))
        keep = (inputs, out)  # the request holds bare addresses

        def run() -> None:
            try:
                request.infer()
            except RuntimeError as error:
                shapes = {name: tuple(value.shape) for name, value in keep[0].items()}
                raise ModelOutputError(f"openvino failed on {shapes}: {error}") from error

        return run

    def _require_hardware(self) -> None:
        """Refuse what the plugin would silently compute in float32."""
        offered = self._core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        if self.precision == "bfloat16" and "BF16" not in offered:
            raise Unavailable(
                "openvino computes bfloat16 only on CPUs with AVX-512 BF16 or AMX, and this one "
                f"has {', '.join(offered)}; use precision='float32'"
            )

    def _compile(self, batch: int | None) -> Any:
        model = self._model.clone()
        if batch is not None:
            model.reshape(
                {port: [batch, *list(port.get_partial_shape())[1:]] for port in model.inputs}
            )
        element = _ELEMENT_TYPES[self.precision]
        compiled = self._core.compile_model(
            model,
            "CPU",
            {
                # Without it, machines that have bfloat16 would use it for float32 as well.
                "INFERENCE_PRECISION_HINT": element,
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": 1,
                "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            },
        )
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != element:
            raise Unavailable(f"openvino was asked for {element} and compiled for {used}")
        return compiled
