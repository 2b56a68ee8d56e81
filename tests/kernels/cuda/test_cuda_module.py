from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from emulator import Library

from fastdiff.errors import Unavailable
from fastdiff.kernels import cuda_module


def test_a_build_without_cuda_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fastdiff._cuda", None)
    with pytest.raises(Unavailable, match="FASTDIFF_CUDA=ON pip install"):
        cuda_module.module()
    assert "pip install nvidia-cuda-nvcc" in str(cuda_module.status())
    with pytest.raises(Unavailable, match="no CUDA kernels"):
        cuda_module.check_device(torch.zeros(1))


def test_nothing_loads_the_module_before_it_is_asked_for() -> None:
    code = (
        "import sys, fastdiff, fastdiff.kernels.step.cuda, fastdiff.kernels.noise.cuda\n"
        "assert not {'fastdiff._cuda', 'triton'} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_tensors_of_another_device_are_refused(emulated: Library) -> None:
    assert cuda_module.check_device(torch.zeros(1)).type == "cpu"
    with pytest.raises(Unavailable, match="take tensors on a cpu device, got one on meta"):
        cuda_module.check_device(torch.zeros(1, device="meta"))
