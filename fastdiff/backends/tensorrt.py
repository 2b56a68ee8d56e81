"""TensorRT on an NVIDIA GPU.

Not yet executed on a GPU: the builder is shared with TensorRT-RTX, whose plans are built and
checked without one, and the calls of `TensorRtDenoiser` are tested against a recorded context.

TensorRT times kernels while it builds, so it builds on the GPU that runs the plan; see
`fastdiff.backends.tensorrt_rtx` for the one that builds ahead of time.
"""

from __future__ import annotations

import importlib
import weakref
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor

from fastdiff.backends.base import Backend, BackendStatus, Denoiser, require_usable, version_of
from fastdiff.backends.cuda import DEVICE, cuda_status, require_on, synchronize
from fastdiff.backends.tensorrt_plan import PlanOptions, build_tensorrt_plan
from fastdiff.errors import InvalidShape, ModelOutputError, Unavailable
from fastdiff.networks import Network

_PLAN = "engine.plan"


class TensorRtDenoiser(Denoiser):
    """A deserialized plan, launched on torch's current stream.

    Inputs and outputs are float32 at every precision. Each bound call has an execution context of
    its own, because a captured call cannot share one whose shapes change; all share the memory of
    their intermediate results.
    """

    def __init__(
        self,
        trt: ModuleType,
        plan: bytes,
        options: PlanOptions,
        output_channels: int,
        precision: str,
        device: torch.device = DEVICE,
    ) -> None:
        self.backend = trt.__name__.replace("_", "-")
        self.precision, self.output_channels, self.device = precision, output_channels, device
        self._trt, self._options = trt, options
        self._runtime = trt.Runtime(trt.Logger(trt.Logger.ERROR))
        self._plan = self._runtime.deserialize_cuda_engine(plan)
        if self._plan is None:
            raise Unavailable(
                f"{self.backend} refuses the plan: it was built by another version or for another "
                "GPU; build it anew"
            )
        self._scratch: Callable[[], Tensor | None] = lambda: None

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        inputs = {"x": x, "t": t, **conditioning}
        require_on(self.device, {**inputs, "out": out})
        context = self._context(inputs)
        scratch = self._scratch_of(context.update_device_memory_size_for_shapes())
        context.set_device_memory(scratch.data_ptr(), scratch.numel())
        for name, value in {**inputs, "output": out}.items():
            context.set_tensor_address(name, value.data_ptr())
        keep = (inputs, out, scratch)  # the context holds bare addresses

        def run() -> None:
            if not context.execute_async_v3(self._stream()):
                raise ModelOutputError(f"{self.backend} failed on {len(keep[1])} rows")

        # A context must not go while the device is at it, as it may be when a graph is evicted.
        weakref.finalize(run, synchronize, self.device).atexit = False
        return run

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Write the plan, which holds every batch size and the weights."""
        (folder / _PLAN).write_bytes(self._plan.serialize())

    def _context(self, inputs: Mapping[str, Tensor]) -> Any:
        """Return a new execution context for inputs of these shapes, without memory."""
        profile = self._options.profile_of(len(inputs["x"]))
        context = self._plan.create_execution_context(self._context_options())
        if context is None:
            raise Unavailable(f"{self.backend} has no memory for an execution context")
        # The first evaluation comes later on this stream, or on one that waits for it.
        fits = context.set_optimization_profile_async(profile, self._stream())
        for name, value in inputs.items():
            fits = fits and context.set_input_shape(name, tuple(value.shape))
        if not fits:
            shapes = {name: tuple(value.shape) for name, value in inputs.items()}
            raise InvalidShape(f"expected inputs that the {self.backend} plan takes, got {shapes}")
        return context

    def _context_options(self) -> Any:
        """Return how contexts are made: their intermediate results lie in memory that is given."""
        return self._trt.ExecutionContextAllocationStrategy.USER_MANAGED

    def _scratch_of(self, size: int) -> Tensor:
        """Return at least `size` bytes on the device, which last as long as some bound call."""
        scratch = self._scratch()
        if scratch is None or scratch.numel() < size:
            scratch = torch.empty(max(size, 1), dtype=torch.uint8, device=self.device)
            self._scratch = weakref.ref(scratch)
        return scratch

    def _stream(self) -> int:
        stream: int = torch.cuda.current_stream(self.device).cuda_stream
        return stream


class TensorRtBackend(Backend):
    """Builds a plan with one optimisation profile per range of batch sizes, and runs it.

    Parameters
    ----------
    options : PlanOptions
        How plans are built.
    """

    name = "tensorrt"
    device = DEVICE
    precisions = ("float32", "bfloat16", "float16")
    _module: ClassVar[str] = "tensorrt"
    _no_timings: ClassVar[bytes | None] = b""
    _distributions: ClassVar[tuple[str, ...]] = ("tensorrt", "tensorrt_cu13", "tensorrt_cu12")
    _denoiser: ClassVar[type[TensorRtDenoiser]] = TensorRtDenoiser

    def __init__(self, options: PlanOptions | None = None) -> None:
        self.options = options or PlanOptions()
        self._timings = self._no_timings  # of kernels, shared by the builds of this process

    def status(self) -> BackendStatus:
        package = self._distributions[0]
        version = version_of(self._module, *self._distributions)
        missing = [] if version else [f"not installed; pip install {package}"]
        return cuda_status(f"{package} {version}", missing)

    def serialize(self, network: Network, precision: str) -> bytes:
        """Return the plan of `network`, a serialized engine, without running it.

        Raises
        ------
        Unavailable
            The package is missing, or cannot build on this machine or for this network.
        """
        if version_of(self._module, *self._distributions) is None:
            raise Unavailable(f"{self.name}: not installed; pip install {self._distributions[0]}")
        plan, self._timings = build_tensorrt_plan(
            self._library(), network, precision, self.options, self._timings
        )
        return plan

    def build(
        self, network: Network, precision: str, blobs: Path | None = None
    ) -> TensorRtDenoiser:
        require_usable(self)
        kept = blobs / _PLAN if blobs is not None else None
        if kept is not None and kept.exists():
            plan = kept.read_bytes()
        else:
            plan = self.serialize(network, precision)
        return self._denoiser(self._library(), plan, self.options, network.probe(), precision)

    def _library(self) -> ModuleType:
        return importlib.import_module(self._module)


TENSORRT = TensorRtBackend()
