import ctypes

import pytest
import torch

from fastdiff.backends.base import BackendStatus
from fastdiff.backends.cuda import (
    DEVICE,
    cuda_status,
    full_float32,
    missing_for_cuda,
    require_on,
    synchronize,
)
from fastdiff.errors import InvalidArgument


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be a machine with or without driver, CUDA in torch, and a GPU."""

    def pretend(driver, cuda, gpu):
        def load(name):
            if not driver:
                raise OSError(name)

        monkeypatch.setattr(ctypes, "CDLL", load)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
        return missing_for_cuda()

    return pretend


def test_each_missing_part_is_named_alone(machine):
    assert machine(driver=True, cuda="13.0", gpu=True) == []
    (driver,) = machine(driver=False, cuda="13.0", gpu=False)
    assert "no NVIDIA driver here (libcuda.so.1 does not load)" in driver
    (build,) = machine(driver=True, cuda=None, gpu=False)
    assert "is built without CUDA" in build
    (gpu,) = machine(driver=True, cuda="13.0", gpu=False)
    assert "finds no GPU" in gpu
    assert len(machine(driver=False, cuda=None, gpu=False)) == 2


def test_a_gpu_is_named_where_nothing_is_missing(machine, monkeypatch):
    machine(driver=True, cuda="13.0", gpu=True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a card at {device}")
    assert cuda_status("torch 3") == BackendStatus(True, "torch 3, a card at cuda:0")
    assert cuda_status("torch 3", ["needs a"]) == BackendStatus(False, "needs a")
    machine(driver=True, cuda="13.0", gpu=False)
    assert cuda_status("torch 3", ["needs a"]).detail.startswith("needs a; the NVIDIA driver finds")


def test_a_tensor_somewhere_else_is_refused_by_name():
    here, there = torch.zeros(2), torch.zeros(2, device="meta")
    require_on(torch.device("cpu"), {"x": here})
    with pytest.raises(InvalidArgument, match="text: expected a tensor on cpu, got meta"):
        require_on(torch.device("cpu"), {"x": here, "text": there})


def test_only_a_gpu_is_waited_for(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    synchronize(torch.device("cpu"))
    synchronize(DEVICE)
    assert waited == [DEVICE]


def tf32_settings():
    """Return what both of torch's interfaces say, as far as it answers."""

    def read(setting):
        try:
            return setting()
        except RuntimeError:
            return "refused"

    cudnn, cuda, mkldnn = torch.backends.cudnn, torch.backends.cuda, torch.backends.mkldnn
    operators = (cudnn.conv, cudnn.rnn, cuda.matmul, mkldnn.matmul)
    return [
        *(operator.fp32_precision for operator in operators),
        read(lambda: cudnn.allow_tf32),
        read(torch.get_float32_matmul_precision),
    ]


@pytest.mark.parametrize("products", ["highest", "high", "medium"])
@pytest.mark.parametrize("convolutions", ["tf32", "ieee"])  # at "ieee" the interfaces disagree
def test_tf32_is_off_inside_and_as_it_was_afterwards(products, convolutions):
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision, torch.get_float32_matmul_precision()
    try:
        conv.fp32_precision = convolutions
        torch.set_float32_matmul_precision(products)
        allowed = tf32_settings()
        assert "tf32" in allowed
        with full_float32(torch.device("cpu")):
            assert tf32_settings() == allowed
        with full_float32(DEVICE):
            older = False if convolutions == "tf32" else "refused"
            assert tf32_settings() == ["ieee"] * 4 + [older, "highest"]
        assert tf32_settings() == allowed
        with pytest.raises(KeyError), full_float32(DEVICE):
            raise KeyError
        assert tf32_settings() == allowed
    finally:
        conv.fp32_precision = before[0]
        torch.set_float32_matmul_precision(before[1])
