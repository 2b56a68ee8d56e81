"""TensorRT on an NVIDIA GPU.

Not yet executed on a GPU: the builder is shared with TensorRT-RTX, whose plans are built and
checked without one, and the calls of `TensorRtDenoiser` are tested against a recorded context.

TensorRT times kernels while it builds, so it builds on the GPU that runs the plan; see
`fastdiff.denoisers.tensorrt_rtx` for the one that builds ahead of time.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastdiff.denoisers.base import EngineStatus, version_of
from fastdiff.denoisers.cuda import DEVICE, DeviceBuffers, missing_for_cuda
from fastdiff.denoisers.tensorrt_plan import PlanOptions, build_plan
from fastdiff.errors import ModelOutputError, Unavailable
from fastdiff.exporting import Network

_PLAN = "engine.plan"


class TensorRtEngine:
    """Builds a plan with one optimisation profile per range of batch sizes, and runs it.

    Parameters
    ----------
    options : PlanOptions
        How plans are built.
    """

    name: ClassVar[str] = "tensorrt"
    precisions = ("float32", "bfloat16", "float16")
    reads_onnx = True
    slow_to_build = False
    _module: ClassVar[str] = "tensorrt"
    _no_timings: ClassVar[bytes | None] = b""
    _distributions: ClassVar[tuple[str, ...]] = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12")

    def __init__(self, options: PlanOptions | None = None) -> None:
        self.options = options or PlanOptions()
        self._timings = self._no_timings  # of kernels, shared by the builds of this process

    def status(self) -> EngineStatus:
        package = self._distributions[0]
        version = version_of(self._module, *self._distributions)
        missing = missing_for_cuda()
        if version is None:
            missing.insert(0, f"not installed; pip install {package}")
        if missing:
            return EngineStatus(False, "; ".join(missing))
        return EngineStatus(True, f"{package} {version}, {torch.cuda.get_device_name(DEVICE)}")

    def serialize(self, network: Network, precision: str) -> bytes:
        """Return the plan of `network`, a serialized engine, without running it.

        Raises
        ------
        Unavailable
            The package is missing, or cannot build on this machine or for this network.
        """
        if version_of(self._module, *self._distributions) is None:
            raise Unavailable(f"{self.name}: not installed; pip install {self._distributions[0]}")
        plan, self._timings = build_plan(
            self._library(), network, precision, self.options, self._timings
        )
        return plan

    def build(
        self, network: Network, precision: str, blobs: Path | None = None
    ) -> TensorRtDenoiser:
        status = self.status()
        if not status.usable:
            raise Unavailable(f"{self.name} cannot run here: {status.detail}")
        kept = blobs / _PLAN if blobs is not None else None
        if kept is not None and kept.exists():
            plan = kept.read_bytes()
        else:
            plan = self.serialize(network, precision)
        return TensorRtDenoiser(self._library(), plan, self.options, network.probe(), precision)

    def _library(self) -> ModuleType:
        return importlib.import_module(self._module)


class TensorRtDenoiser:
    """A deserialized plan, launched on torch's current stream.

    Inputs and outputs are float32 at every precision. Tensors on the host are copied to the
    device and back in each call.
    """

    input_dtype = output_dtype = torch.float32

    def __init__(
        self,
        trt: ModuleType,
        plan: bytes,
        options: PlanOptions,
        output_channels: int,
        precision: str,
        device: str = DEVICE,
    ) -> None:
        self.engine = trt.__name__.replace("_", "-")
        self.precision, self.output_channels = precision, output_channels
        self._options, self._device = options, device
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._plan = self._runtime.deserialize_cuda_engine(plan)
        if self._plan is None:
            raise Unavailable(
                f"{self.engine} refuses the plan: it was built by another version or for another "
                "GPU; build it anew"
            )
        self._contexts: dict[int, Any] = {}

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        profile = self._options.profile_of(len(x))
        buffers = DeviceBuffers({"x": x, "t": t, **conditioning}, out, self._device)

        def run() -> None:
            stream = torch.cuda.current_stream().cuda_stream
            context = self._context(profile, stream)
            buffers.upload()
            for name, value in buffers.inputs.items():
                context.set_input_shape(name, tuple(value.shape))
                context.set_tensor_address(name, value.data_ptr())
            context.set_tensor_address("output", buffers.out.data_ptr())
            if not context.execute_async_v3(stream):
                raise ModelOutputError(f"{self.engine} failed on {len(x)} rows")
            buffers.download()

        return run

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Write the plan, which holds every batch size and the weights."""
        (folder / _PLAN).write_bytes(self._plan.serialize())

    def _context(self, profile: int, stream: int) -> Any:
        """Return the execution context of `profile`; all bound calls of its sizes share it.

        Contexts hold the activations, so one for each bound call would waste memory.
        """
        if profile not in self._contexts:
            context = self._plan.create_execution_context()
            if context is None or not context.set_optimization_profile_async(profile, stream):
                raise Unavailable(f"{self.engine} has no memory for an execution context")
            self._contexts[profile] = context
        return self._contexts[profile]
