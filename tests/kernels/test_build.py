from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pybind11
import pytest
from gpu_contracts import find_tool
from nvcc import missing_compiler

ROOT = Path(__file__).parents[2]


def configure(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    if not (cmake := shutil.which("cmake")):
        pytest.skip("cmake is not installed")
    python = [f"-Dpybind11_DIR={pybind11.get_cmake_dir()}", f"-DPython_EXECUTABLE={sys.executable}"]
    command = [cmake, "-S", str(ROOT), "-B", str(build), *python, *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def compile_header(source: str, *flags: str) -> subprocess.CompletedProcess[str]:
    if not (compiler := shutil.which("c++")):
        pytest.skip("no C++ compiler is installed")
    include = ROOT / "csrc" / "include"
    command = [compiler, "-std=c++17", "-fsyntax-only", *flags, f"-I{include}", "-xc++", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    "flag",
    [
        "-ffast-math",
        "-Ofast",
        "-ffp-contract=fast",
        "-ffp-contract=on",
        "-funsafe-math-optimizations",
        "-fassociative-math",
    ],
)
def test_flags_that_break_rounding_are_refused(tmp_path: Path, flag: str) -> None:
    result = configure(tmp_path, f"-DCMAKE_CXX_FLAGS=-O2 {flag}")
    assert result.returncode != 0
    assert f"fastdiff promises bits: remove {flag}" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-DFASTDIFF_CUDA=MAYBE"], "FASTDIFF_CUDA must be AUTO, ON or OFF, got MAYBE"),
        (["-DFASTDIFF_CUDA=ON", "-DFASTDIFF_NVCC=/nowhere/nvcc"], "pip install nvidia-cuda-nvcc"),
    ],
)
def test_cuda_that_cannot_be_built_is_refused(
    tmp_path: Path, options: list[str], message: str
) -> None:
    result = configure(tmp_path, *options)
    assert result.returncode != 0
    assert message in " ".join(result.stderr.split())


@pytest.mark.skipif(bool(reason := missing_compiler()), reason=str(reason))
def test_cuda_module_imports_without_a_driver_and_says_so(tmp_path: Path) -> None:
    """The build of a wheel, for one architecture; all are compiled by tests/kernels/cuda."""
    options = ["-DFASTDIFF_CUDA=ON", "-DFASTDIFF_CUDA_ARCHITECTURES=90a-real"]
    result = configure(tmp_path, *options, f"-DFASTDIFF_NVCC={find_tool('nvcc')}")
    assert result.returncode == 0, result.stderr
    command = ["cmake", "--build", str(tmp_path), "--target", "_cuda", "--parallel", "2"]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stdout + built.stderr

    code = """
from fastdiff.kernels import cuda_module
assert cuda_module.module().device == "cuda"
print(cuda_module.status())
try:
    cuda_module.module().fill_normal(0, 0, 0, 1, 4, 0, 0, 0, 1.0, 0)
except Exception as error:
    print(type(error).__name__, error)
"""
    (module,) = (tmp_path / "csrc" / "cuda").glob("_cuda*")
    start = f"import fastdiff; fastdiff.__path__.append({str(module.parent)!r})\n"
    got = subprocess.run(
        [sys.executable, "-c", start + code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    status, launch = got.stdout.splitlines() or [got.stderr, ""]
    assert status.startswith("no CUDA driver or device: ")
    assert launch.startswith("Unavailable the CUDA kernel fill_normal: ")


def test_the_runtime_of_packages_is_found_where_an_older_nvcc_does_not_look(
    tmp_path: Path,
) -> None:
    """nvcc 13.0 of the packages looks in lib64; its profile says so, and here this one's does."""
    spec = importlib.util.find_spec("nvidia")
    toolkits = [Path(place) / "cu13" for place in (spec and spec.submodule_search_locations) or ()]
    toolkit = next((path for path in toolkits if (path / "bin" / "nvcc").exists()), None)
    if toolkit is None:
        pytest.skip("needs pip install nvidia-cuda-nvcc nvidia-cuda-runtime")
    older = tmp_path / "toolkit"
    (older / "bin").mkdir(parents=True)
    for path in [*toolkit.iterdir(), *(toolkit / "bin").iterdir()]:
        if path.name != "bin":
            (older / path.relative_to(toolkit)).symlink_to(path)
    for name in ("nvcc", "nvcc.profile"):
        (older / "bin" / name).unlink()
        shutil.copy(toolkit / "bin" / name, older / "bin" / name)
    profile = older / "bin" / "nvcc.profile"
    profile.write_text(profile.read_text().replace("$(TOP)/lib", "$(TOP)/lib64"))
    options = ["-DFASTDIFF_CUDA=ON", "-DFASTDIFF_CUDA_ARCHITECTURES=90a-real"]
    result = configure(tmp_path / "build", *options, f"-DFASTDIFF_NVCC={older / 'bin' / 'nvcc'}")
    assert result.returncode == 0, result.stderr[-2000:]


def test_the_lowest_versions_that_are_claimed_are_those_that_are_tested() -> None:
    tested = dict(re.findall(r"([\w-]+)==([\d.]+)", (ROOT / "Makefile").read_text()))
    claimed = dict(
        re.findall(r'"(triton|nvidia-cuda-\w+)>=([\d.]+);', (ROOT / "pyproject.toml").read_text())
    )
    assert sorted(claimed) == [
        "nvidia-cuda-cccl", "nvidia-cuda-nvcc", "nvidia-cuda-runtime", "triton",
    ]  # fmt: skip
    for name, lowest in claimed.items():
        assert f"{tested[name]}.".startswith(f"{lowest}.")


def test_missing_compiler_is_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/c++")
    result = configure(tmp_path)
    assert result.returncode != 0
    assert "fastdiff needs a C++17 compiler" in result.stderr


@pytest.mark.parametrize(
    "header", sorted((ROOT / "csrc/include/fastdiff").glob("*.h")), ids=lambda path: path.name
)
def test_headers_stand_alone_and_refuse_fast_math(header: Path) -> None:
    source = f'#include "fastdiff/{header.name}"\n'
    accepted = compile_header(source, "-Wall", "-Wextra", "-Werror")
    assert accepted.returncode == 0, accepted.stderr
    refused = compile_header(source, "-ffast-math")
    assert refused.returncode != 0
    assert "fastdiff promises bits" in refused.stderr
