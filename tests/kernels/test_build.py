from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def configure(build: Path, *options: str) -> subprocess.CompletedProcess[str]:
    if not (cmake := shutil.which("cmake")):
        pytest.skip("cmake is not installed")
    command = [cmake, "-S", str(ROOT), "-B", str(build), *options]
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
    ("value", "message"),
    [("ON", "CUDA kernels are not part of this version"), ("MAYBE", "must be AUTO, ON or OFF")],
)
def test_cuda_that_cannot_be_built_is_refused(tmp_path: Path, value: str, message: str) -> None:
    result = configure(tmp_path, f"-DFASTDIFF_CUDA={value}")
    assert result.returncode != 0
    assert message in result.stderr


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
