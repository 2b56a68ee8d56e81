"""The CUDA kernels under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from emulated_cuda import SOURCES
from emulator import build, sanitizer_environment


def run_sanitized(*options: str) -> subprocess.CompletedProcess[str]:
    names = ("step.cu", "gather.cu", "noise.cu", "runtime.cu")
    library = build([path for path in SOURCES if path.name in names], sanitize=True)
    script = Path(__file__).with_name("sanitized.py")
    support = str(Path(__file__).parents[2] / "support")
    return subprocess.run(
        [sys.executable, str(script), str(library), *options],
        env={**sanitizer_environment(), "PYTHONPATH": os.pathsep.join([support, *sys.path])},
        capture_output=True,
        text=True,
        check=False,
    )


def test_kernels_stay_inside_their_arrays() -> None:
    result = run_sanitized()
    assert result.returncode == 0, result.stderr


def test_an_array_that_is_too_short_is_seen() -> None:
    result = run_sanitized("overrun")
    assert result.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in result.stderr, result.stderr
