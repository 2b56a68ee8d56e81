"""TensorRT without a GPU: real plans of TensorRT-RTX, and the calls that run one, recorded."""

import ctypes
import weakref
from functools import partial
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch

from fastdiff import errors
from fastdiff.backends import BACKENDS
from fastdiff.backends.base import BackendStatus
from fastdiff.backends.tensorrt import TensorRtDenoiser
from fastdiff.backends.tensorrt_plan import PROFILES, PlanOptions, read_network
from fastdiff.backends.tensorrt_rtx import TensorRtRtxBackend, TensorRtRtxDenoiser
from fastdiff.compiler import describe
from fastdiff.integrations.architectures import ARCHITECTURES
from fastdiff.networks import Network

SMALL = ((1, 1, 1), (2, 4, 8))


@pytest.fixture
def rtx():
    return pytest.importorskip("tensorrt_rtx", reason="needs pip install tensorrt-rtx")


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_rtx_builds_a_plan_with_no_gpu(precision, network, rtx):
    options = PlanOptions(SMALL, compute_capabilities=("SM89",))
    plan = TensorRtRtxBackend(options).serialize(network, precision)
    assert plan[:4] == b"vtrt"  # what a serialized engine begins with


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_types_of_the_network_are_the_precision(precision, network, rtx):
    log = rtx.Logger(rtx.Logger.ERROR)
    builder = rtx.Builder(log)
    definition = read_network(rtx, builder, network, precision, log)
    assert definition.get_flag(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    inputs = {definition.get_input(i).name: definition.get_input(i).dtype for i in range(4)}
    assert inputs["x"] == inputs["t"] == inputs["text"] == rtx.float32
    assert inputs["class_labels"] == rtx.int64
    assert definition.get_output(0).dtype == rtx.float32
    layers = [definition.get_layer(i) for i in range(definition.num_layers)]
    convolutions = [layer for layer in layers if layer.type == rtx.LayerType.CONVOLUTION]
    kind = {"float32": rtx.float32, "bfloat16": rtx.bfloat16, "float16": rtx.float16}[precision]
    assert [layer.get_output(0).dtype for layer in convolutions] == [kind]


def test_rtx_names_the_gpus_that_it_builds_for(network, rtx):
    backend = TensorRtRtxBackend(PlanOptions(SMALL, compute_capabilities=("SM90",)))
    with pytest.raises(errors.Unavailable, match=r"does not build for SM90; it builds for: SM75"):
        backend.serialize(network, "float32")


def test_what_tensorrt_cannot_read_is_refused_with_its_reason(network, rtx, tmp_path):
    model = onnx.load(network.onnx)
    model.graph.node[0].op_type = "Frobnicate"
    onnx.save(model, tmp_path / "odd.onnx")
    object.__setattr__(network, "onnx", tmp_path / "odd.onnx")
    with pytest.raises(errors.Unavailable, match="tensorrt_rtx cannot read conv: Frobnicate: "):
        TensorRtRtxBackend(PlanOptions(SMALL)).serialize(network, "float32")


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_status_names_everything_that_is_missing(name, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    monkeypatch.setattr(torch.version, "cuda", None)

    def no_driver(library):
        raise OSError(library)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    package, hint, driver, build = BACKENDS[name].status().detail.split("; ")
    assert (package, hint) == ("not installed", f"pip install {name}")
    assert "no NVIDIA driver" in driver
    assert "without CUDA" in build
    with pytest.raises(errors.Unavailable, match=f"{name}: not installed; pip install {name}"):
        BACKENDS[name].serialize(None, "float32")


def test_profiles_partition_the_batch_sizes():
    options = PlanOptions()
    assert [options.profile_of(b) for b in (1, 2, 8, 9, 32, 33, 128)] == [0, 1, 1, 2, 2, 3, 3]
    assert options.profiles == PROFILES
    with pytest.raises(errors.InvalidArgument, match="takes up to 128 rows per call, got 129"):
        options.profile_of(129)


@pytest.mark.parametrize("profiles", [((2, 4, 8),), ((1, 1, 1), (3, 4, 8)), ((1, 9, 8),), ()])
def test_profiles_with_gaps_are_refused(profiles):
    with pytest.raises(errors.InvalidArgument, match="profiles: expected"):
        PlanOptions(profiles)


class Context:
    """An execution context that computes 2 x + t through the addresses that it is given."""

    def __init__(self, runtime, options):
        self.runtime, self.options = runtime, options
        self.profile, self.shapes, self.addresses, self.scratch = None, {}, {}, None

    def set_optimization_profile_async(self, index, stream):
        self.profile = index, stream
        return True

    def set_input_shape(self, name, shape):
        self.shapes[name] = shape
        return shape[-1] == 5 or len(shape) == 1

    def update_device_memory_size_for_shapes(self):
        return 100 * self.shapes["x"][0]

    def set_device_memory(self, address, size):
        assert size >= self.update_device_memory_size_for_shapes()
        self.scratch = address

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def execute_async_v3(self, stream):
        assert self.scratch is not None
        self.runtime.streams.append(stream)
        x, t = self._array("x"), self._array("t")
        self._array("output", self.shapes["x"])[:] = 2 * x + t[:, None, None, None]
        return self.runtime.works

    def _array(self, name, shape=None):
        shape = shape or self.shapes[name]
        pointer = ctypes.cast(self.addresses[name], ctypes.POINTER(ctypes.c_float))
        return np.ctypeslib.as_array(pointer, shape)


class Recorder:
    """TensorRT's module, runtime and plan in one."""

    __name__ = "tensorrt"
    ExecutionContextAllocationStrategy = SimpleNamespace(USER_MANAGED="given memory")
    DynamicShapesKernelSpecializationStrategy = SimpleNamespace(EAGER="eager")

    def __init__(self, monkeypatch):
        self.contexts, self.streams, self.works = weakref.WeakSet(), [], True
        self.Logger = lambda level: None
        self.Logger.ERROR = 1
        self.Runtime = lambda logger: self
        stream = SimpleNamespace(cuda_stream=77)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)

    def deserialize_cuda_engine(self, plan):
        return self if plan == b"plan" else None

    def serialize(self):
        return memoryview(b"plan")

    def create_execution_context(self, options):
        context = Context(self, options)
        self.contexts.add(context)
        return context

    def create_runtime_config(self):
        config = SimpleNamespace()
        config.set_execution_context_allocation_strategy = partial(setattr, config, "memory")
        return config


@pytest.fixture
def trt(monkeypatch):
    return Recorder(monkeypatch)


def denoiser_of(trt, kind=TensorRtDenoiser):
    return kind(trt, b"plan", PlanOptions(), 1, "float16", torch.device("cpu"))


def bound(denoiser, batch):
    x, t = torch.randn(batch, 1, 3, 5), torch.arange(float(batch))
    out = torch.full_like(x, torch.nan)
    return denoiser.bind(x, t, {}, out), x, t, out


def test_calls_run_on_the_current_stream_through_bound_addresses(trt):
    denoiser = denoiser_of(trt)
    assert (denoiser.backend, denoiser.precision) == ("tensorrt", "float16")
    calls = [bound(denoiser, batch) for batch in (1, 3, 7)]  # the last two share a profile
    for call, x, t, out in (*calls, *reversed(calls)):
        x.add_(1)
        call()
        assert torch.equal(out, 2 * x + t[:, None, None, None])
    assert trt.streams == [77] * 6
    trt.works = False
    with pytest.raises(errors.ModelOutputError, match="tensorrt failed on 1 rows"):
        calls[0][0]()


def test_every_bound_call_has_a_context_of_its_own_and_takes_it_along(trt, monkeypatch):
    """One that others reshape would be replayed with their shapes."""
    denoiser = denoiser_of(trt)
    calls = [bound(denoiser, batch)[0] for batch in (3, 7, 3)]
    profiles = [context.profile for context in trt.contexts]
    assert profiles == [(1, 77)] * 3
    assert sorted(context.shapes["x"][0] for context in trt.contexts) == [3, 3, 7]
    waited = []
    monkeypatch.setattr(
        "fastdiff.backends.tensorrt.synchronize", lambda device: waited.append(len(trt.contexts))
    )
    late = bound(denoiser, 1)[0]
    del late
    assert waited == [4]  # the device is waited for while the context is still there
    assert len(trt.contexts) == 3
    calls.clear()
    assert len(trt.contexts) == 0


def test_intermediate_results_share_the_memory_of_the_largest(trt):
    denoiser = denoiser_of(trt)
    calls = [bound(denoiser, batch)[0] for batch in (7, 3, 1)]  # as a backend prepares them
    assert len({context.scratch for context in trt.contexts}) == 1
    larger = bound(denoiser, 20)[0]
    assert len({context.scratch for context in trt.contexts}) == 2
    memory = weakref.ref(denoiser._scratch())
    assert memory().numel() == 2000
    del calls, larger
    assert memory() is None


def test_rtx_compiles_for_the_shapes_of_a_call_before_it_runs(trt):
    call = bound(denoiser_of(trt, TensorRtRtxDenoiser), 2)[0]
    (context,) = trt.contexts
    assert context.options.memory == "given memory"
    assert context.options.dynamic_shapes_kernel_specialization_strategy == "eager"
    call()


def test_rtx_has_what_contexts_are_made_with(rtx):
    assert "USER_MANAGED" in rtx.ExecutionContextAllocationStrategy.__members__
    assert "EAGER" in rtx.DynamicShapesKernelSpecializationStrategy.__members__
    needed = {
        rtx.ICudaEngine: ["create_execution_context", "create_runtime_config", "serialize"],
        rtx.IRuntimeConfig: [
            "set_execution_context_allocation_strategy",
            "dynamic_shapes_kernel_specialization_strategy",
        ],
        rtx.IExecutionContext: [name for name in vars(Context) if not name.startswith("_")],
    }
    for kind, names in needed.items():
        assert [name for name in names if not hasattr(kind, name)] == []


def test_inputs_that_the_plan_does_not_take_are_refused(trt):
    x, t = torch.zeros(2, 1, 3, 4), torch.zeros(2)
    with pytest.raises(errors.InvalidShape, match=r"tensorrt plan takes, got .*\(2, 1, 3, 4\)"):
        denoiser_of(trt).bind(x, t, {}, torch.zeros_like(x))


def test_addresses_of_another_device_are_refused(trt):
    x, t = torch.zeros(2, 1, 3, 5), torch.zeros(2)
    with pytest.raises(errors.InvalidArgument, match="out: expected a tensor on cpu, got meta"):
        denoiser_of(trt).bind(x, t, {}, x.to("meta"))


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt-rtx"])
def test_plans_are_kept_and_not_built_again(name, trt, monkeypatch, tmp_path):
    backend = type(BACKENDS[name])()
    network = Network(None, (1, 3, 5), output_channels=1)
    monkeypatch.setattr(backend, "status", lambda: BackendStatus(True, "pretended"))
    monkeypatch.setattr(backend, "_library", lambda: trt)
    monkeypatch.setattr(backend, "serialize", lambda network, precision: b"plan")
    backend.build(network, "float16", tmp_path).save(tmp_path, [1, 4])
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"plan"]
    monkeypatch.setattr(backend, "serialize", lambda *args: pytest.fail("built again"))
    kept = backend.build(network, "float16", tmp_path)
    assert (kept.precision, kept.output_channels) == ("float16", 1)


def test_a_plan_of_another_version_is_refused(trt):
    with pytest.raises(errors.Unavailable, match="refuses the plan: it was built by another vers"):
        TensorRtDenoiser(trt, b"old", PlanOptions(), 1, "float32")


SHALLOW = {
    "ddpm-cifar10": {
        "layers_per_block": 1,
        "block_out_channels": (256, 256),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    },
    "dit-s2": {"num_layers": 4},
}
"""Published architectures with fewer of the same layers, which take as many kernels."""


def plan_of(network, precision):
    """Return the plan of a network for batches of 1 to 8 on one kind of GPU."""
    options = PlanOptions(((1, 4, 8),), compute_capabilities=("SM89",))
    return TensorRtRtxBackend(options).serialize(network, precision)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", *SHALLOW])
def test_rtx_builds_models_in_float16_for_any_batch(name, rtx):
    model = name
    if name in SHALLOW:
        diffusers = pytest.importorskip("diffusers", reason="needs pip install diffusers")
        architecture = ARCHITECTURES[name]
        config = {**architecture.config, **SHALLOW[name]}
        model = getattr(diffusers, architecture.class_name)(**config).eval()
    network, _ = describe(model)
    plan = plan_of(network, "float16")
    weights = sum(parameter.numel() for parameter in network.module.parameters())
    assert plan[:4] == b"vtrt"
    assert 2 * weights < len(plan) < 2 * weights + 2e7  # two bytes each, and 20 MB of kernels


@pytest.mark.slow
def test_rtx_has_no_transposed_convolution_in_bfloat16(rtx):
    with pytest.raises(errors.Unavailable, match=r"built no backend for digits: .*deconv"):
        plan_of(describe("digits")[0], "bfloat16")
