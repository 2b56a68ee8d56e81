"""TensorRT-RTX: TensorRT whose plans are built ahead of time, on machines with no GPU as well.

Plans are built and checked by the tests; running them is not yet executed on a GPU.

What differs from `fastdiff.denoisers.tensorrt`:

- No kernel is timed and there is no timing cache: a plan is built in seconds with no GPU, for the
  GPUs that `PlanOptions.compute_capabilities` names, and finished just in time where it runs.
  A plan whose weights can be replaced (`PlanOptions.refit`) needs a GPU to build all the same.
- It serves GeForce RTX, RTX PRO and their like (SM75 to SM89, SM120 and SM121), not the data
  centre GPUs SM90 and SM100, which TensorRT serves.
"""

from __future__ import annotations

from typing import ClassVar

from fastdiff.denoisers.tensorrt import TensorRtEngine


class TensorRtRtxEngine(TensorRtEngine):
    """As `TensorRtEngine`; `serialize` works without a GPU."""

    name: ClassVar[str] = "tensorrt-rtx"
    _module: ClassVar[str] = "tensorrt_rtx"
    _no_timings: ClassVar[bytes | None] = None
    _distributions: ClassVar[tuple[str, ...]] = ("tensorrt-rtx",)
