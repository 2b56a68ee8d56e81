"""Which kernel a GPU gets: what is refused, why, and what takes its place."""

import json
import subprocess
import warnings
from functools import partial

import pytest
import torch
from typer.testing import CliRunner

from fastdiff.cli import app
from fastdiff.errors import KernelWarning, Unavailable, UnknownName
from fastdiff.kernels import first_use, gpu_kernels
from fastdiff.kernels.gpu_kernels import KERNELS, LANGUAGES, gpu_kernel, refusal

GPU = torch.device("cuda:0")


class CompilationError(Exception):
    """As Triton's: of no kind that Python or torch knows."""


FAULTS = {
    "RuntimeError: PassManager::run failed": RuntimeError("PassManager::run\nfailed"),
    "FileNotFoundError: [Errno 2] Python.h": OSError(2, "Python.h"),
    "CalledProcessError: Command 'gcc'": subprocess.CalledProcessError(1, "gcc"),
    "AcceleratorError: CUDA error": torch.AcceleratorError("CUDA error: misaligned address"),
    "CompilationError: at 12:4": CompilationError("at 12:4:"),
    "AssertionError": AssertionError(),
    "Unavailable: the CUDA kernel step": Unavailable("the CUDA kernel step: no kernel image"),
}


def forget():
    """As a new process does."""
    gpu_kernel.cache_clear()
    gpu_kernels._first_use.cache_clear()


class Kernels:
    """Kernels of both languages that return their language, or raise or differ as planted."""

    def __init__(self):
        self.missing, self.broken, self.raises, self.differs = {}, {}, {}, {}
        self.calls = []

    def load(self, operator, language):
        if language in self.broken:
            raise self.broken[language]

        def kernel():
            self.calls.append((operator, language))
            if language in self.raises:
                raise self.raises[language]
            return language

        return kernel

    def check(self, kernel, device):
        assert device == GPU
        return self.differs.get(kernel())


@pytest.fixture
def planted(monkeypatch, tmp_path):
    """Put `Kernels` in the place of the GPU's, on a made-up card with a cache of its own."""
    kernels = Kernels()
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    monkeypatch.delenv("FASTDIFF_GPU", raising=False)
    status = {name: partial(kernels.missing.get, name) for name in LANGUAGES}
    monkeypatch.setattr(gpu_kernels, "STATUS", status)
    monkeypatch.setattr(gpu_kernels, "load", kernels.load)
    monkeypatch.setattr(first_use, "CHECKS", dict.fromkeys(KERNELS, kernels.check))
    monkeypatch.setattr(first_use, "describe_device", lambda device: "a card")
    monkeypatch.setattr(first_use, "is_lost", lambda device: False)
    forget()
    yield kernels
    forget()


def test_every_kernel_is_where_it_is_said_to_be():
    for operator, room in KERNELS.items():
        folder = first_use.Path(gpu_kernels.__file__).parent / room
        for language in LANGUAGES:
            assert f"def {operator}(" in (folder / f"{language}.py").read_text()


def test_cuda_comes_first_unless_it_is_not_there_or_not_allowed(planted, monkeypatch):
    assert gpu_kernel("step", GPU)() == "cuda"
    forget()
    monkeypatch.setenv("FASTDIFF_GPU", "triton")
    assert gpu_kernel("step", GPU)() == "triton"
    assert refusal("step", "cuda", GPU) == "FASTDIFF_GPU=triton"
    forget()
    monkeypatch.delenv("FASTDIFF_GPU")
    planted.missing["cuda"] = "no CUDA kernels in this build"
    assert gpu_kernel("step", GPU)() == "triton"


def test_a_kernel_that_failed_its_check_is_passed_over(planted):
    planted.differs["cuda"] = "3 of 7 differ"
    with pytest.warns(KernelWarning, match="the cuda kernel step is not used on a card: 3 of 7"):
        assert gpu_kernel("step", GPU)() == "triton"


@pytest.mark.parametrize("moment", ["broken", "raises"])
@pytest.mark.parametrize("reason", FAULTS)
def test_whatever_a_kernel_raises_it_is_named_reported_and_replaced(planted, reason, moment):
    getattr(planted, moment)["cuda"] = FAULTS[reason]
    with pytest.warns(KernelWarning) as caught:
        assert gpu_kernel("step", GPU)() == "triton"
    assert f"the cuda kernel step is not used on a card: {reason}" in str(caught[0].message)
    report = json.loads(first_use.Path(str(caught[0].message).rsplit(" ", 1)[1]).read_text())
    assert report["mismatch"] == refusal("step", "cuda", GPU)
    assert type(FAULTS[reason]).__name__ in report["traceback"]


def test_without_gpu_kernels_every_reason_is_named(planted, monkeypatch):
    planted.missing["cuda"] = "not built"
    planted.raises["triton"] = CompilationError("at 12:4")
    expected = "no GPU kernel for step: cuda: not built; triton: CompilationError: at 12:4"
    with pytest.warns(KernelWarning), pytest.raises(Unavailable, match=expected):
        gpu_kernel("step", GPU)
    monkeypatch.setenv("FASTDIFF_GPU", "metal")
    with pytest.raises(UnknownName, match="'metal'; known: cuda, triton"):
        refusal("step", "cuda", GPU)


def test_a_kernel_that_raised_is_asked_once_in_a_process_and_again_in_the_next(planted):
    planted.raises["cuda"] = FAULTS["FileNotFoundError: [Errno 2] Python.h"]
    with pytest.warns(KernelWarning):
        refusal("gather", "cuda", GPU)
    assert "Python.h" in refusal("gather", "cuda", GPU)
    assert planted.calls == [("gather", "cuda")]
    del planted.raises["cuda"]  # the header is there now
    forget()
    assert refusal("gather", "cuda", GPU) is None


def test_a_kernel_that_costs_its_process_the_device_is_not_run_by_the_next(planted, monkeypatch):
    planted.raises["cuda"] = FAULTS["AcceleratorError: CUDA error"]
    monkeypatch.setattr(first_use, "is_lost", lambda device: bool(planted.calls))
    with pytest.warns(KernelWarning, match="misaligned address; the GPU is lost to this process"):
        refusal("step", "cuda", GPU)
    assert "after an error of another kernel" in refusal("step", "triton", GPU)
    planted.calls.clear()
    forget()
    with pytest.warns(KernelWarning, match="cuda kernel step is not used.*misaligned"):
        assert gpu_kernel("step", GPU)() == "triton"
    assert ("step", "cuda") not in planted.calls


def test_a_cache_that_cannot_be_written_to_refuses_no_kernel(planted, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path / "file"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal("step", "cuda", GPU) is None
    planted.differs["triton"] = "3 of 7 differ"
    with pytest.warns(KernelWarning, match="no report: .*Not a directory"):
        assert refusal("step", "triton", GPU) == "3 of 7 differ"


def test_doctor_explains_each_kernel_and_fails_where_an_operator_has_none(
    planted, monkeypatch, tmp_path
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    planted.broken["cuda"] = OSError("libcuda.so.1 [too old]")
    with pytest.warns(KernelWarning):
        done = CliRunner().invoke(app, ["doctor", "--gpu"], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    assert "step, cuda: not used: OSError: libcuda.so.1 [too old]" in done.output
    assert "step, triton: right" in done.output
    forget()
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path / "other"))
    planted.differs["triton"] = "3 of 7 differ"
    with pytest.warns(KernelWarning):
        done = CliRunner().invoke(app, ["doctor", "--gpu"], env={"COLUMNS": "200"})
    assert "gather, triton: not used: 3 of 7 differ" in done.output
    assert done.exit_code == 1
