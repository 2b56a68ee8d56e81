import ctypes
import subprocess
import sys

import pytest
import torch

from fastdiff import errors
from fastdiff.backends import BACKENDS, backend_status, get_backend
from fastdiff.backends.base import PRECISIONS

PACKAGES = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino",
    "onnxruntime-cuda": "onnxruntime-gpu",
    "onnxruntime-tensorrt": "onnxruntime-gpu",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}
TORCH = {"eager", "inductor", "eager-cuda", "inductor-cuda"}


def test_engines_are_registered_under_their_own_names():
    assert list(BACKENDS) == [backend.name for backend in BACKENDS.values()]
    assert {"native", *TORCH, *PACKAGES} == set(BACKENDS)
    for backend in BACKENDS.values():
        assert backend.precisions[0] == "float32"
        assert set(backend.precisions) <= set(PRECISIONS)


def test_unknown_engines_are_answered_with_the_known_ones():
    with pytest.raises(errors.UnknownName, match=r"known: auto, eager, eager-cuda, inductor, ind"):
        get_backend("tensorflow")


@pytest.mark.parametrize(("backend", "package"), PACKAGES.items())
def test_a_missing_package_is_named(backend, package, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert f"not installed; pip install {package}" in backend_status()[backend].detail
    with pytest.raises(errors.Unavailable, match=f"'{backend}' cannot run.*pip install {package}"):
        get_backend(backend)


def test_only_inductor_is_slow_to_build():
    slow = [name for name, backend in BACKENDS.items() if backend.slow_to_build]
    assert slow == ["inductor", "inductor-cuda"]


def test_engines_say_where_they_run():
    on_the_host = {"eager", "native", "onnxruntime", "openvino", "inductor"}
    for name, backend in BACKENDS.items():
        assert backend.device == torch.device("cpu" if name in on_the_host else "cuda:0")


@pytest.mark.parametrize("backend", [n for n, e in BACKENDS.items() if not e.status().usable])
def test_an_explicit_choice_never_falls_back(backend, network):
    with pytest.raises(errors.Unavailable):
        get_backend(backend)
    with pytest.raises(errors.Unavailable, match="cannot run here"):
        BACKENDS[backend].build(network, "float32")


@pytest.mark.parametrize("name", ["eager-cuda", "inductor-cuda"])
def test_torch_on_a_gpu_names_all_that_is_missing(name, monkeypatch):
    def no_driver(library):
        raise OSError(library)

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda module: None)
    monkeypatch.setattr("shutil.which", lambda program: None)
    monkeypatch.setattr("pathlib.Path.exists", lambda path: False)
    with pytest.raises(errors.Unavailable, match=f"backend '{name}' cannot run here") as raised:
        get_backend(name)
    driver, build = "no NVIDIA driver here", "is built without CUDA"
    software = ["C++ compiler", "pip install triton", "CUDA_HOME"]
    expected = [driver, build] if name == "eager-cuda" else [*software, driver, build]
    assert all(part in str(raised.value) for part in expected)


def test_asking_for_the_status_imports_no_engine():
    heavy = "openvino", "tensorrt", "tensorrt_rtx", "torch._inductor.compile_fx"
    code = (
        "import sys; from fastdiff.backends import backend_status; backend_status(); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
