"""Sampling on a recorded device whose kernels in one language raise: the other one goes on."""

import subprocess
import warnings

import pytest
import torch
from graph_engines import graph_engine, make_request, plain, run
from recorded_graph import RecordedDevice

from fastdiff.errors import KernelWarning
from fastdiff.kernels import first_use, gpu_kernels, operators
from fastdiff.kernels.gpu_kernels import LANGUAGES

NATIVE = {
    "fill_normal": operators.host_fill_normal,
    "gather": operators._gather,
    "step": operators._step,
}
FAULTS = [
    RuntimeError("PassManager::run failed"),
    OSError("libcuda.so.1: cannot open shared object file"),
    subprocess.CalledProcessError(1, ["gcc", "main.c"]),
    torch.AcceleratorError("CUDA error: no kernel image is available"),
]


@pytest.fixture
def chosen_kernels(monkeypatch, tmp_path):
    """Put `gpu_kernel` behind the operators of the CPU, as it is behind those of a GPU.

    Kernels in Triton are the CPU's own; those in CUDA C++ raise what the list that is given holds.
    """
    raised = []

    def load(operator, language):
        def broken(*arguments):
            raise raised[0]

        return NATIVE[operator] if language == "triton" else broken

    def check(kernel, device):
        if kernel not in NATIVE.values():
            kernel()

    def put(operator):
        def call(first, *rest, **named):
            gpu_kernels.gpu_kernel(operator, first.device)(first, *rest, **named)

        library.impl(operator, call, "CPU", allow_override=True)

    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    monkeypatch.delenv("FASTDIFF_GPU", raising=False)
    monkeypatch.setattr(gpu_kernels, "STATUS", dict.fromkeys(LANGUAGES, lambda: None))
    monkeypatch.setattr(gpu_kernels, "load", load)
    monkeypatch.setattr(first_use, "CHECKS", dict.fromkeys(NATIVE, check))
    gpu_kernels.gpu_kernel.cache_clear()
    gpu_kernels._first_use.cache_clear()
    library = torch.library.Library("fastdiff", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of an override, which this is
        for operator in NATIVE:
            put(operator)
    yield raised
    library._destroy()
    gpu_kernels.gpu_kernel.cache_clear()
    gpu_kernels._first_use.cache_clear()


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
def test_sampling_goes_on_with_the_next_language_whatever_the_first_raises(fault, chosen_kernels):
    chosen_kernels.append(fault)
    request = make_request(rows=2, seed=5)
    engine = graph_engine(RecordedDevice("late"), rows=4)
    with pytest.warns(KernelWarning) as caught:
        images = run(engine, request)[0]
    named = {str(one.message).split(" is not used")[0] for one in caught}
    assert named == {f"the cuda kernel {operator}" for operator in NATIVE}
    assert all(type(fault).__name__ in str(one.message) for one in caught)
    assert engine.executor.status()[0].eager_because is None  # captured all the same
    chosen_kernels.clear()
    assert torch.equal(images, plain(request)[0])
