"""torch.cuda behind the device seam.

Nothing here has been executed on a GPU yet.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")

_WARM_UPS = 3  # as torch advises: libraries choose kernels and allocate workspaces at first
_GRAPH_SHARE = 4  # graphs may hold one part in this many of the device's memory


class CudaStream:
    """A stream of one device; torch's operators see it as the current one inside `run`."""

    def __init__(self, device: torch.device) -> None:
        self.raw: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def run(self, work: Callable[[], T]) -> T:
        """Call `work`, whose torch operators run on this stream."""
        with torch.cuda.stream(self.raw):
            return work()

    def enqueue(self, work: Callable[[], object]) -> None:
        """As `run`, for work of torch operators alone."""
        self.run(work)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy between pinned host memory and the device, without waiting for it."""
        with torch.cuda.stream(self.raw):
            target.copy_(source, non_blocking=True)

    def record(self) -> torch.cuda.Event:
        """Mark the end of the work so far."""
        event: torch.cuda.Event = self.raw.record_event()
        return event

    def wait(self, event: torch.cuda.Event) -> None:
        """Begin what comes next after `event`."""
        self.raw.wait_event(event)

    def synchronize(self) -> None:
        """Let the host wait for all work so far."""
        self.raw.synchronize()


@dataclass(frozen=True)
class CudaGraph:
    """An instantiated graph.

    Attributes
    ----------
    bytes : int
        What torch's allocator took from the device for it. The driver's own memory for the
        graph's nodes is not in it.
    """

    bytes: int
    _graph: torch.cuda.CUDAGraph
    _stream: CudaStream

    def replay(self) -> None:
        """Launch it on the stream it was captured for."""
        self._stream.run(self._graph.replay)


class CudaDevice:
    """One GPU.

    All graphs share one memory pool: replays follow each other on one stream, so the
    intermediate results of one graph may lie where those of another do.

    Parameters
    ----------
    memory : torch.device
        Such as ``torch.device("cuda:0")``.
    graph_bytes : int or None
        What graphs may hold together; a quarter of the device's memory by default.
    """

    def __init__(self, memory: torch.device, graph_bytes: int | None = None) -> None:
        self.memory = memory
        total: int = torch.cuda.get_device_properties(memory).total_memory
        self.graph_bytes = total // _GRAPH_SHARE if graph_bytes is None else graph_bytes
        self._pool: Any = torch.cuda.graph_pool_handle()

    def stream(self) -> CudaStream:
        """Return a new stream."""
        return CudaStream(self.memory)

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return page-locked host memory, which the device copies without the host's help."""
        return torch.empty(*shape, dtype=dtype, pin_memory=True)

    def capture(self, work: Callable[[], None], stream: CudaStream) -> CudaGraph:
        """Warm `work` up on a side stream, then record what it launches.

        Raises
        ------
        Exception
            What `work` raises; RuntimeError with CUDA's reason if the device refuses it.
        """
        side = self.stream()
        side.wait(stream.record())
        for _ in range(_WARM_UPS):
            side.run(work)
        stream.wait(side.record())
        torch.cuda.synchronize(self.memory)
        torch.cuda.empty_cache()  # so that the difference below is the graph's alone
        before = torch.cuda.memory_reserved(self.memory)
        graph = torch.cuda.CUDAGraph()

        def record() -> None:
            # Other threads of the process may use the device meanwhile.
            with torch.cuda.graph(
                graph, pool=self._pool, stream=stream.raw, capture_error_mode="thread_local"
            ):
                work()

        try:
            stream.run(record)  # which puts the caller's stream back: torch may fail to
        except RuntimeError as error:
            # Ending a broken capture raises as well; what broke it is the reason.
            raise error.__context__ or error from None
        taken = torch.cuda.memory_reserved(self.memory) - before
        return CudaGraph(max(0, taken), graph, stream)
