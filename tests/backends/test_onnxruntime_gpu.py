"""onnxruntime's GPU providers without a GPU: what is refused, and what a session is told."""

import ctypes
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import onnxruntime
import pytest
import torch

from fastdiff import errors
from fastdiff.backends import BACKENDS
from fastdiff.backends.onnxruntime_gpu import OnnxRuntimeGpuDenoiser, _batch_axis, refuse_fallback
from fastdiff.exporting.half import export_half

CUDA = "CUDAExecutionProvider"


@pytest.mark.parametrize("running", [["CPUExecutionProvider"], ["CPUExecutionProvider", CUDA], []])
def test_a_silent_fallback_is_refused(running):
    with pytest.raises(errors.Unavailable, match=f"was asked for {CUDA} and fell back to "):
        refuse_fallback(running, CUDA)
    refuse_fallback([CUDA, "CPUExecutionProvider"], CUDA)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_a_real_session_never_runs_on_the_cpu_instead(network):
    with pytest.raises(errors.Unavailable, match="CUDAExecutionProvider"):
        OnnxRuntimeGpuDenoiser(network, "float32", "onnxruntime-cuda", CUDA)


@pytest.mark.parametrize(("backend", "library"), [
    ("onnxruntime-cuda", "cuda"),
    ("onnxruntime-tensorrt", "tensorrt"),
])  # fmt: skip
def test_status_tells_a_build_without_the_provider_from_a_missing_driver(
    backend, library, tmp_path, monkeypatch
):
    def no_driver(name):
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    spec = SimpleNamespace(origin=str(tmp_path / "__init__.py"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spec)
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_shared.so").touch()
    detail = BACKENDS[backend].status().detail
    assert "is built without" in detail
    assert "pip install onnxruntime-gpu; no NVIDIA driver" in detail
    (tmp_path / "capi" / f"libonnxruntime_providers_{library}.so").touch()
    assert BACKENDS[backend].status().detail.startswith("no NVIDIA driver")


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_the_batch_axis_is_named_by_the_file(precision, network, tmp_path):
    path = network.onnx
    if precision != "float32":
        path = export_half(network, precision, tmp_path / "half.onnx")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name(_batch_axis(path), 3)
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    assert [node.shape[0] for node in session.get_inputs()] == [3, 3, 3, 3]


class Recorder:
    """A session that computes 2 x + t through the addresses that it is bound to."""

    made: ClassVar[list] = []
    runs: ClassVar[list] = []
    waits: ClassVar[list] = []  # how many runs there were when torch's stream was waited for

    def __init__(self, path, options, providers):
        self.path, self.options, self.providers = path, options, providers
        self.fallback, self.bound = True, {}
        self.made.append(self)

    def disable_fallback(self):
        self.fallback = False

    def get_providers(self):
        return [self.providers[0][0], "CPUExecutionProvider"]

    def io_binding(self):
        return SimpleNamespace(bind_input=self._bind, bind_output=self._bind, of=self)

    def _bind(self, name, device, index, element, shape, address):
        assert (device, index) == ("cuda", 0)
        kind = np.ctypeslib.as_ctypes_type(np.dtype(element))
        pointer = ctypes.cast(address, ctypes.POINTER(kind))
        self.bound[name] = np.ctypeslib.as_array(pointer, shape)

    def run_with_iobinding(self, binding):
        self.runs.append(self)
        x, t = self.bound["x"], self.bound["t"]
        self.bound["output"][:] = 2 * x + t[:, None, None, None]


@pytest.fixture
def recorded(network, monkeypatch):
    monkeypatch.setattr(Recorder, "made", [])
    monkeypatch.setattr(onnxruntime, "InferenceSession", Recorder)
    stream = SimpleNamespace(synchronize=lambda: Recorder.waits.append(len(Recorder.runs)))
    monkeypatch.setattr(Recorder, "waits", [])
    monkeypatch.setattr(Recorder, "runs", [])
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    device = torch.device("cpu")
    return OnnxRuntimeGpuDenoiser(network, "float32", "onnxruntime-cuda", CUDA, device)


def test_sessions_may_not_fall_back_nor_round(recorded):
    (session,) = Recorder.made
    key = "session.disable_cpu_ep_fallback"
    assert session.options.get_session_config_entry(key) == "1"
    assert session.providers == [(CUDA, {"device_id": "0", "use_tf32": "0"})]
    assert not session.fallback


def test_one_session_serves_a_batch_size_and_reads_bound_buffers_anew(recorded, network):
    for batch in (1, 3, 3):
        x, t, conditioning = network.example(batch)
        out = torch.full_like(x, torch.nan)
        call = recorded.bind(x, t, conditioning, out)
        for _ in range(2):
            x.add_(1)
            call()
            assert torch.equal(out, 2 * x + t[:, None, None, None])
    assert len(Recorder.made) == 2
    assert Recorder.made[1].bound["class_labels"].dtype == np.int64
    assert Recorder.made[1].bound["text"].shape == (3, 7)
    assert Recorder.waits == list(range(6))  # before each run, for what writes its inputs


def test_it_is_not_captured_and_says_why(recorded):
    assert recorded.eager_because == "onnxruntime runs on a stream of its own and waits for it"


def test_addresses_of_another_device_are_refused(recorded, network):
    x, t, conditioning = network.example(2)
    t = t.to("meta")
    with pytest.raises(errors.InvalidArgument, match="t: expected a tensor on cpu, got meta"):
        recorded.bind(x, t, conditioning, torch.empty_like(x))


def test_element_types_that_onnxruntime_lacks_are_refused(recorded, network):
    x, t, conditioning = network.example(2)
    conditioning["text"] = conditioning["text"].bfloat16()
    with pytest.raises(errors.InvalidDtype, match=r"text: expected one of .*got torch.bfloat16"):
        recorded.bind(x, t, conditioning, torch.empty_like(x))
