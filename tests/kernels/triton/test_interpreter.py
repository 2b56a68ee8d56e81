from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fastdiff.kernels import triton_module


@pytest.mark.skipif(triton_module.missing() is not None, reason=str(triton_module.missing()))
def test_kernels_in_the_interpreter() -> None:
    """The tests of numerics/ pass; run them alone with TRITON_INTERPRET=1 pytest PATH."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "numerics"]
    result = subprocess.run(
        command,
        cwd=Path(__file__).parent,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
