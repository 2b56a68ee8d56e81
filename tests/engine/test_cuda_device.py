"""What is asked of torch.cuda, and in which order, against a module that writes it down."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from fastdiff.engine import cuda_device as device_cuda


class FakeStream:
    def __init__(self, cuda, name):
        self._cuda, self.name = cuda, name

    def record_event(self):
        return f"end of {self.name}"

    def wait_event(self, event):
        self._cuda.log.append(f"{self.name} waits for {event}")

    def synchronize(self):
        self._cuda.log.append(f"host waits for {self.name}")


class FakeCuda:
    """As much of torch.cuda as the device uses; a broken capture fails twice, as CUDA's does."""

    def __init__(self):
        self.log, self._names, self.current = [], iter("abcdef"), ["default"]
        self.reserved = 1000

    def Stream(self, device):  # noqa: N802
        return FakeStream(self, next(self._names))

    def CUDAGraph(self):  # noqa: N802
        return SimpleNamespace(replay=lambda: self.log.append(f"replay on {self.current[-1]}"))

    @contextmanager
    def stream(self, stream):
        depth = len(self.current)
        self.current.append(stream.name)
        try:
            yield
        finally:
            del self.current[depth:]

    @contextmanager
    def graph(self, graph, *, pool, stream, capture_error_mode):
        self.log.append(f"capture on {stream.name} into {pool}, {capture_error_mode}")
        self.current.append(stream.name)
        self.reserved += 64
        try:
            yield
        except Exception:
            raise RuntimeError("capture was invalidated")  # noqa: B904  the context is the reason
        self.current.pop()
        self.log.append("captured")

    def graph_pool_handle(self):
        return "the pool"

    def get_device_properties(self, device):
        return SimpleNamespace(total_memory=4000)

    def memory_reserved(self, device):
        return self.reserved

    def synchronize(self, device):
        self.log.append("host waits for the device")

    def empty_cache(self):
        self.reserved = 500


@pytest.fixture
def cuda(monkeypatch):
    fake = FakeCuda()
    monkeypatch.setattr(device_cuda, "torch", SimpleNamespace(cuda=fake))
    return fake


@pytest.fixture
def device(cuda):
    return device_cuda.CudaDevice(torch.device("cuda:1"))


def test_capture_warms_up_on_a_side_stream_and_replays_on_its_own(cuda, device):
    stream = device.stream()
    graph = device.capture(lambda: cuda.log.append(f"work on {cuda.current[-1]}"), stream)
    assert cuda.log == [
        "b waits for end of a",
        *["work on b"] * 3,
        "a waits for end of b",
        "host waits for the device",
        "capture on a into the pool, thread_local",
        "work on a",
        "captured",
    ]
    assert graph.bytes == 64  # not what the cache gave back before
    graph.replay()
    assert cuda.log[-1] == "replay on a"
    assert cuda.current == ["default"]


def test_a_broken_capture_tells_what_broke_it_and_leaves_the_callers_stream(cuda, device):
    def work():
        if len(cuda.log) > 2:
            raise ValueError("the first reason")

    with pytest.raises(ValueError, match="the first reason"):
        device.capture(work, device.stream())
    assert cuda.current == ["default"]


def test_graphs_may_hold_a_quarter_of_the_device_unless_told_otherwise(cuda, device):
    assert device.graph_bytes == 1000
    assert device_cuda.CudaDevice(torch.device("cuda"), graph_bytes=7).graph_bytes == 7


def test_work_and_copies_are_put_on_the_stream(cuda, device):
    stream, other = device.stream(), device.stream()
    assert stream.run(lambda: cuda.current[-1]) == "a"
    stream.enqueue(lambda: cuda.log.append(f"enqueued on {cuda.current[-1]}"))
    copies = []

    class Target:
        def copy_(self, source, non_blocking):
            copies.append((source, non_blocking, cuda.current[-1]))

    other.copy(Target(), "source")
    assert copies == [("source", True, "b")]
    other.wait(stream.record())
    stream.synchronize()
    assert cuda.log == ["enqueued on a", "b waits for end of a", "host waits for a"]
