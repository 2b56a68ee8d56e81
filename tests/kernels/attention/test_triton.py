"""The Triton kernel: its tiles, and its numbers in the interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdiff.kernels import triton_module

pytestmark = pytest.mark.skipif(
    triton_module.missing() is not None, reason=str(triton_module.missing())
)


def test_numerics_in_the_interpreter() -> None:
    """Run them alone with TRITON_INTERPRET=1 pytest tests/kernels/attention/numerics."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "numerics"]
    result = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("size", "parts"),
    [
        (8, (16, 0)),
        (16, (16, 0)),
        (24, (32, 0)),
        (40, (32, 16)),
        (56, (64, 0)),
        (72, (64, 16)),
        (80, (64, 16)),
        (96, (64, 32)),
        (104, (128, 0)),
        (128, (128, 0)),
        (136, (128, 16)),
        (160, (128, 32)),
    ],
)
def test_heads_are_cut_into_powers_of_two(size: int, parts: tuple[int, int]) -> None:
    from fastdiff.kernels.attention.triton import split

    assert split(size) == parts
