"""OpenVINO on the CPU, with inputs and outputs in the backend's own buffers.

A model whose batch axis is fixed is compiled to something faster than one whose batch axis is
open (docs/backends.md has the figures), so the common batch sizes have a compiled model each. All
others share an open one: compiling takes up to half a second, which no step should wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

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

_ELEMENT_TYPES = {"float32": "f32", "bfloat16": "bf16"}
_FIXED_SIZES = (1, 2, 4, 8, 16, 32)  # each compiled model holds its own packed weights


class OpenVinoBackend(Backend):
    """Compiles the exported network with OpenVINO's CPU plugin."""

    name = "openvino"
    precisions = ("float32", "bfloat16")

    def status(self) -> BackendStatus:
        version = version_of("openvino")
        if version is None:
            return BackendStatus(False, "not installed; pip install openvino")
        return BackendStatus(True, f"openvino {version}, CPU")

    def build(
        self, network: Network, precision: str, blobs: Path | None = None
    ) -> OpenVinoDenoiser:
        return OpenVinoDenoiser(network, precision, blobs)


class OpenVinoDenoiser(Denoiser):
    """Inference requests that read and write the caller's tensors: nothing is copied.

    Inputs and outputs are float32 at every precision; OpenVINO rounds inside.

    Parameters
    ----------
    network : Network
    precision : str
    blobs : Path, optional
        Folder with models that were compiled before, instead of compiling them.
    """

    backend = "openvino"

    def __init__(self, network: Network, precision: str, blobs: Path | None = None) -> None:
        import openvino

        self.precision = precision
        self._core = openvino.Core()
        self._require_hardware()
        self.output_channels = network.probe()
        self._path = onnx_path(network, self.backend)
        self._blobs = {path.name: path for path in blobs.glob("*.blob")} if blobs else {}
        self._models: dict[int | None, Any] = {}
        try:
            # What cannot be compiled is refused here, not in a tick.
            kept = next((size for size in _FIXED_SIZES if _blob(size) in self._blobs), 1)
            self._compiled(_size(network.batch) if network.batch else kept)
        except RuntimeError as error:
            raise Unavailable(f"openvino refuses the network: {error}") from error

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        import openvino

        request = self._compiled(_size(len(x))).create_infer_request()
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

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Write the compiled model of each size, which holds the weights as well."""
        for size in set(map(_size, batches)):
            (folder / _blob(size)).write_bytes(self._compiled(size).export_model().getvalue())

    def trim(self, batches: Collection[int]) -> None:
        """Let go of the models for other sizes, each of which holds the weights once more."""
        kept = set(map(_size, batches))
        self._models = {size: model for size, model in self._models.items() if size in kept}
        self.__dict__.pop("_model", None)

    def _compiled(self, size: int | None) -> Any:
        """Return the model for `size` rows, compiling it when it is first asked for."""
        if size not in self._models:
            self._models[size] = self._compile(size)
        return self._models[size]

    @cached_property
    def _model(self) -> Any:
        return self._core.read_model(str(self._path))

    def _compile(self, batch: int | None) -> Any:
        element = _ELEMENT_TYPES[self.precision]
        settings = {
            # Without it, machines that have bfloat16 would use it for float32 as well.
            "INFERENCE_PRECISION_HINT": element,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        blob = self._blobs.get(_blob(batch))
        if blob is not None:
            compiled = self._core.import_model(blob.read_bytes(), "CPU", settings)
        else:
            model = self._model.clone()
            if batch is not None:
                model.reshape(
                    {port: [batch, *list(port.get_partial_shape())[1:]] for port in model.inputs}
                )
            compiled = self._core.compile_model(model, "CPU", settings)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        if used != element:
            raise Unavailable(f"openvino was asked for {element} and compiled for {used}")
        return compiled


def _size(rows: int) -> int | None:
    """Return the batch size of the model that runs `rows` rows; None for the open one."""
    return rows if rows in _FIXED_SIZES else None


def _blob(batch: int | None) -> str:
    return f"{'open' if batch is None else batch}.blob"


OPENVINO = OpenVinoBackend()
