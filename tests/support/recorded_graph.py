"""A CUDA device that is not there: streams and graphs on the CPU, with the semantics of CUDA's.

Capture records the operators that reach torch's dispatcher, with their Python scalars and tensor
addresses frozen; replay runs just those, and no Python of the captured function. What stream
capture refuses is refused: waiting for the device, sizes that depend on data, host data that
becomes a tensor, memory from outside the graph's pool. So is torch's own random generator, whose
state a replay would not advance as eager code does.

Copies and replays are asynchronous: they wait in the queue of their stream until something waits
for them, or until the schedule says so. ``early`` does work at once, ``late`` at the last moment,
and a random schedule anything between. Pinned memory keeps its rules: a copy's source must not
change before the copy is done, and its target holds poison until then.

This proves the host's logic. It does not prove that a real device can capture anything.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten

_REFUSED_TAGS = {
    torch.Tag.data_dependent_output: "the host would wait for a value of the device",
    torch.Tag.dynamic_output_shape: "a size depends on data, so the host would wait for it",
    torch.Tag.nondeterministic_seeded: "a replay would not advance torch's generator",
}
_INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
_MASKS = (torch.bool, torch.uint8)
_TO_HOST = {
    torch.Tensor.cpu: "cpu()",
    torch.Tensor.numpy: "numpy()",
    torch.Tensor.tolist: "tolist()",
    torch.Tensor.__array__: "numpy.asarray()",
}


class CaptureError(RuntimeError):
    """The work cannot be captured."""


def _tensors(*trees: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, Tensor)]


def _poison(tensor: Tensor) -> None:
    """Fill memory whose content is undefined with what nobody can mistake for data."""
    if tensor.is_floating_point():
        tensor.fill_(torch.nan)
    else:
        tensor.fill_(1 if tensor.dtype is torch.bool else torch.iinfo(tensor.dtype).max)


def _refusal(operator: Any, args: Any, kwargs: Any) -> str | None:
    if operator in _INDEXING:
        masked = any(index.dtype in _MASKS for index in _tensors(args[1]))
        return "a mask's size depends on data, so the host would wait for it" if masked else None
    given = {argument.name: argument.default_value for argument in operator._schema.arguments}
    given.update(zip(given, args, strict=False), **kwargs)
    if given.get("dropout_p") == 0:
        return None  # attention draws nothing without dropout
    for tag, reason in _REFUSED_TAGS.items():
        if tag in operator.tags:
            return reason
    if operator is aten.lift_fresh.default:
        return "host data becomes a tensor: its value would be frozen"
    if kwargs.get("pin_memory"):
        return "pinned memory is not of the graph's pool"
    return None


class _HostGuard(TorchFunctionMode):
    """Refuses what moves a tensor to the host without passing the dispatcher."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _TO_HOST:
            raise CaptureError(f"{_TO_HOST[function]}: the host would wait for the device")
        return function(*args, **(kwargs or {}))


class _Recorder(TorchDispatchMode):
    def __init__(self, graph: RecordedGraph, limit: float) -> None:
        super().__init__()
        self._graph, self._limit = graph, limit

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:  # inference mode hands over operators that are made of others
            out = operator.decompose(*args, **kwargs)
        if out is not NotImplemented:
            return out
        if reason := _refusal(operator, args, kwargs):
            raise CaptureError(f"{operator}: {reason}")
        with torch._C.DisableTorchFunction():  # a kernel in Python may use what it likes
            out = operator(*args, **kwargs)
        known = {tensor.untyped_storage().data_ptr() for tensor in _tensors(args, kwargs)}
        new = [t for t in _tensors(out) if t.untyped_storage().data_ptr() not in known]
        self._graph.bytes += sum(tensor.untyped_storage().nbytes() for tensor in new)
        if self._graph.bytes > self._limit:
            raise torch.OutOfMemoryError(f"the pool has no room for {self._graph.bytes} bytes")
        self._graph.pool += new
        self._graph.nodes.append((operator, args, kwargs, out))
        return out


class RecordedGraph:
    """Operators with frozen scalars and addresses.

    Attributes
    ----------
    nodes : list
        (operator, args, kwargs, result) in order.
    pool : list of Tensor
        Memory that was allocated during capture; replays write it again.
    bytes : int
        Its size.
    """

    def __init__(self, device: RecordedDevice, stream: RecordedStream) -> None:
        self.nodes: list[tuple[Any, Any, Any, Any]] = []
        self.pool: list[Tensor] = []
        self.bytes = 0
        self._device, self._stream = device, stream

    def replay(self) -> None:
        """Enqueue it on the stream it was captured for."""
        self._device.counts["replay"] += 1
        self._stream.enqueue(self._run)

    def _run(self) -> None:
        with torch.inference_mode():
            for operator, args, kwargs, out in self.nodes:
                again = operator(*args, **kwargs)
                for old, new in zip(_tensors(out), _tensors(again), strict=True):
                    if old.data_ptr() != new.data_ptr():
                        old.copy_(new)

    def names(self) -> list[str]:
        """Return the operators' names in order."""
        return [str(operator) for operator, *_ in self.nodes]


class RecordedEvent:
    """The end of the first `position` pieces of a stream's work."""

    def __init__(self, stream: RecordedStream, position: int) -> None:
        self._stream, self._position = stream, position

    def synchronize(self) -> None:
        """Let the host wait for it."""
        self._stream.work_until(self._position)


class RecordedStream:
    """A queue whose work is done in order, no sooner than somebody waits or the schedule says."""

    def __init__(self, device: RecordedDevice) -> None:
        self._device = device
        self._queue: deque[Callable[[], object]] = deque()
        self._done = 0

    def enqueue(self, work: Callable[[], object]) -> None:
        """Put asynchronous work into the queue."""
        self._device.refuse_in_capture("a stream's queue")
        self._queue.append(work)
        self._device.let_time_pass()

    def work_until(self, position: int) -> None:
        """Do all work up to `position`."""
        while self._done < position:
            self._done += 1
            self._queue.popleft()()

    def work_once(self) -> None:
        """Do the next piece of work, if there is one."""
        if self._queue:
            self.work_until(self._done + 1)

    def run(self, work):
        """Call `work` after all that was enqueued: torch's operators are launched by Python."""
        self.synchronize()
        self._device.counts["run"] += 1
        return work()

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Enqueue a copy between pinned memory and the device."""
        assert target.shape == source.shape
        assert target.dtype == source.dtype
        to_device = self._device.is_pinned(source)
        assert to_device != self._device.is_pinned(target), "one end must be pinned, the other not"
        self._device.counts["to device" if to_device else "to host"] += 1
        self._device.counts["bytes to device" if to_device else "bytes to host"] += target.nbytes
        sent = source.clone() if to_device else None
        if not to_device:
            _poison(target)

        def transfer() -> None:
            if sent is not None and not sent.equal(source):
                raise AssertionError("pinned memory was overwritten before its copy was done")
            target.copy_(source)

        self.enqueue(transfer)

    def record(self) -> RecordedEvent:
        """Mark the end of the work so far."""
        return RecordedEvent(self, self._done + len(self._queue))

    def wait(self, event: RecordedEvent) -> None:
        """Begin what comes next after `event`."""
        self._queue.append(event.synchronize)

    def synchronize(self) -> None:
        """Let the host wait for all work so far."""
        self.record().synchronize()


class RecordedDevice:
    """The device seam of `fastdiff.engine.executor` on recorded streams and graphs.

    Parameters
    ----------
    schedule : "early", "late" or int
        When asynchronous work is done; a number seeds a random schedule.
    graph_bytes : int
        What graphs may hold together.
    pool_bytes : float
        What a graph may allocate during capture.

    Attributes
    ----------
    counts : Counter
        Launches ("replay", "run"), copies and their bytes ("to device", "bytes to device", ...).
    graphs : list of RecordedGraph
        All that were captured, in order.
    """

    memory = torch.device("cpu")

    def __init__(
        self,
        schedule: str | int = "late",
        graph_bytes: int = 1 << 30,
        pool_bytes: float = float("inf"),
    ) -> None:
        self.graph_bytes, self._pool_bytes = graph_bytes, pool_bytes
        self.counts: Counter[str] = Counter()
        self.graphs: list[RecordedGraph] = []
        self._schedule = schedule
        self._random = random.Random(schedule)  # noqa: S311
        self._streams: list[RecordedStream] = []
        self._pinned: dict[int, Tensor] = {}  # keeps it, so that no address has a second life
        self._capturing = False

    def stream(self) -> RecordedStream:
        """Return a new stream."""
        self._streams.append(RecordedStream(self))
        return self._streams[-1]

    def pinned(self, *shape: int, dtype: torch.dtype) -> Tensor:
        """Return poisoned host memory that copies are allowed to use."""
        self.refuse_in_capture("pinned memory")
        tensor = torch.empty(*shape, dtype=dtype)
        _poison(tensor)
        self._pinned[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def is_pinned(self, tensor: Tensor) -> bool:
        """Whether `tensor` lies in memory that `pinned` returned."""
        return tensor.untyped_storage().data_ptr() in self._pinned

    def capture(self, work: Callable[[], None], stream: RecordedStream) -> RecordedGraph:
        """Run `work` once to warm up, then record it.

        Raises
        ------
        CaptureError
            A real device could not capture it, or a replay would not do the same.
        """
        for other in self._streams:
            other.synchronize()
        work()
        graph = RecordedGraph(self, stream)
        with self._capture_mode(), _HostGuard(), _Recorder(graph, self._pool_bytes):
            work()
        for tensor in graph.pool:
            with torch.inference_mode():
                _poison(tensor)  # CUDA's capture computes nothing
        self.graphs.append(graph)
        return graph

    @contextmanager
    def _capture_mode(self) -> Iterator[None]:
        self._capturing = True
        try:
            yield
        finally:
            self._capturing = False

    def refuse_in_capture(self, what: str) -> None:
        """Raise if a capture is under way."""
        if self._capturing:
            raise CaptureError(f"{what} cannot be used during capture")

    def let_time_pass(self) -> None:
        """Let the device work as much as the schedule wants."""
        if self._schedule == "early":
            for stream in self._streams:
                stream.synchronize()
        elif self._schedule != "late":
            for _ in range(self._random.randrange(4)):
                self._random.choice(self._streams).work_once()
