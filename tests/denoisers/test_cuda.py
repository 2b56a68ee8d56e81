import ctypes

import pytest
import torch

from fastdiff.denoisers.cuda import DeviceBuffers, missing_for_cuda


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


def test_tensors_that_are_on_the_device_are_used_as_they_are():
    x, out = torch.arange(3.0), torch.full((3,), torch.nan)
    buffers = DeviceBuffers({"x": x}, out, "cpu")
    assert buffers.inputs["x"] is x
    assert buffers.out is out
    buffers.upload(), buffers.download()
    assert out.isnan().all()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_tensors_on_the_host_are_copied_in_each_call():
    x, out = torch.arange(3.0), torch.full((3,), torch.nan)
    buffers = DeviceBuffers({"x": x}, out)
    for scale in (2.0, 5.0):
        x.mul_(scale)
        buffers.upload()
        torch.add(buffers.inputs["x"], 1, out=buffers.out)
        buffers.download()
        assert torch.equal(out, x + 1)
