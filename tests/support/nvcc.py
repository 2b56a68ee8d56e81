"""Compile CUDA sources for GPUs that need not be there; each content once."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from building import claimed
from gpu_contracts import find_tool

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "nvcc"
INCLUDES = [ROOT / "csrc" / "include", ROOT / "csrc" / "cuda"]

STRICT = ("--fmad=false",)
"""What the build passes for kernels that promise bits."""


class Binary(NamedTuple):
    """Machine code, and the text that it was made from."""

    cubin: Path
    ptx: str


def missing_compiler() -> str | None:
    """Why CUDA sources cannot be compiled on this machine, or None."""
    if find_tool("nvcc") and find_tool("ptxas"):
        return None
    return "no nvcc on this machine: pip install nvidia-cuda-nvcc nvidia-cuda-runtime"


def compile_cuda(source: Path, arch: str, flags: Sequence[str] = ()) -> Binary:
    """Compile the kernels of a source for an architecture such as ``"sm_90"``.

    Kept under ``build/nvcc`` by the contents of the source, the headers and the flags.
    """
    nvcc, ptxas = find_tool("nvcc"), find_tool("ptxas")
    includes = [f"-I{folder}" for folder in INCLUDES]
    command = [str(nvcc), "-std=c++17", f"-arch={arch}", "--ptx", *flags, *includes, str(source)]
    digest = hashlib.sha256(repr((command, str(ptxas))).encode())
    for path in [source, *(p for folder in INCLUDES for p in sorted(folder.rglob("*.*h")))]:
        digest.update(path.read_bytes())
    cubin = BUILD / f"{source.stem}-{arch}-{digest.hexdigest()[:16]}.cubin"
    ptx = cubin.with_suffix(".ptx")
    with claimed(cubin) as missing, tempfile.TemporaryDirectory(dir=BUILD) as scratch:
        if missing:
            text, code = Path(scratch) / "kernels.ptx", Path(scratch) / "kernels.cubin"
            _run([*command, "-o", str(text)])
            _run([str(ptxas), f"-arch={arch}", str(text), "-o", str(code)])
            text.replace(ptx)
            code.replace(cubin)
    return Binary(cubin, ptx.read_text())


def _run(command: list[str]) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(command[0]).parent}{os.pathsep}{os.environ['PATH']}",
    }
    result = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stdout}{result.stderr}")
