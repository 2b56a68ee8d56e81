"""TensorRT-RTX: TensorRT whose plans are built ahead of time, on machines with no GPU as well.

Plans are built and checked by the tests; running them is not yet executed on a GPU.

What differs from `fastdiff.backends.tensorrt`:

- No kernel is timed and there is no timing cache: a plan is built in seconds with no GPU, for the
  GPUs that `PlanOptions.compute_capabilities` names, and finished just in time where it runs.
  A plan whose weights can be replaced (`PlanOptions.refit`) needs a GPU to build all the same.
- Kernels for the shapes of a call are compiled before its first evaluation. Left to itself, the
  library starts with general ones and compiles meanwhile, and a graph would keep the general ones.
- It serves GeForce RTX, RTX PRO and their like (SM75 to SM89, SM120 and SM121), not the data
  centre GPUs SM90 and SM100, which TensorRT serves.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fastdiff.backends.tensorrt import TensorRtBackend, TensorRtDenoiser


class TensorRtRtxDenoiser(TensorRtDenoiser):
    """As `TensorRtDenoiser`, with kernels for exactly the shapes that a call is bound to."""

    def _context_options(self) -> Any:
        options = self._plan.create_runtime_config()
        options.set_execution_context_allocation_strategy(super()._context_options())
        kernels = self._trt.DynamicShapesKernelSpecializationStrategy
        options.dynamic_shapes_kernel_specialization_strategy = kernels.EAGER
        return options


class TensorRtRtxBackend(TensorRtBackend):
    """As `TensorRtBackend`; `serialize` works without a GPU."""

    name = "tensorrt-rtx"
    _module: ClassVar[str] = "tensorrt_rtx"
    _no_timings: ClassVar[bytes | None] = None
    _distributions: ClassVar[tuple[str, ...]] = ("tensorrt-rtx",)
    _denoiser: ClassVar[type[TensorRtDenoiser]] = TensorRtRtxDenoiser


TENSORRT_RTX = TensorRtRtxBackend()
