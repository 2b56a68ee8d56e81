"""The kernels under AddressSanitizer and UndefinedBehaviorSanitizer, in a program of their own."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[3] / "csrc"
SOURCES = [
    Path(__file__).with_name("sanitized.cpp"),
    CSRC / "network" / "pack.cpp",
    CSRC / "network" / "plan.cpp",
    CSRC / "cpu" / "thread_pool.cpp",
]


def test_no_kernel_leaves_its_memory(tmp_path: Path) -> None:
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    program = tmp_path / "sanitized"
    flags = ["-std=c++17", "-O0", "-g0", "-ffp-contract=off", "-Wno-psabi", "-pthread"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    built = subprocess.run(
        [compiler, *flags, *sanitizers, f"-I{CSRC}", f"-I{CSRC / 'include'}", *map(str, SOURCES),
         "-o", str(program), "-ldl"],
        capture_output=True, text=True,
    )  # fmt: skip
    if "cannot find" in built.stderr and "san" in built.stderr:
        pytest.skip("this compiler comes without sanitizers")
    assert built.returncode == 0, built.stderr

    ran = subprocess.run([program], capture_output=True, text=True)

    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.count(": ok") == 76
