"""The module compiled by torch's Inductor, ahead of time and for every batch size at once.

Ahead of time rather than ``torch.compile``: the figures in docs/engines.md have it faster, a call
checks no guards, and nothing can recompile or fall back to eager in the middle of a request.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastdiff.denoisers.base import DTYPES, EngineStatus
from fastdiff.denoisers.precision import AtPrecision, first_line, trace
from fastdiff.errors import Unavailable
from fastdiff.exporting import Network


class InductorEngine:
    """Exports the module with an open batch axis and compiles it with the C++ compiler here."""

    name = "inductor"
    precisions = ("float32", "bfloat16")
    reads_onnx = False
    slow_to_build = True  # 20 to 50 s for the digits model, minutes for a large U-Net

    def status(self) -> EngineStatus:
        compiler = _compiler()
        if compiler is None:
            return EngineStatus(False, "needs a C++ compiler: apt install g++, or set CXX to one")
        return EngineStatus(True, f"torch {torch.__version__}, {compiler}; only when asked for")

    def build(self, network: Network, precision: str) -> InductorDenoiser:
        status = self.status()
        if not status.usable:
            raise Unavailable(f"inductor cannot run here: {status.detail}")
        return InductorDenoiser(network, precision)


class InductorDenoiser:
    """A compiled copy of the module; its weights live in a shared library."""

    engine = "inductor"

    def __init__(self, network: Network, precision: str) -> None:
        self.precision = precision
        self.input_dtype = self.output_dtype = DTYPES[precision]
        self.output_channels = network.probe()
        module = AtPrecision(network.require_module(), self.input_dtype)
        self._run = _compile(module, network, self.input_dtype)

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        named = dict(conditioning)

        def run() -> None:
            with torch.inference_mode():
                out.copy_(self._run(x, t, named))

        return run


def _compile(module: AtPrecision, network: Network, dtype: torch.dtype) -> Callable[..., Tensor]:
    """Compile `module` to a shared library, load it and return its entry.

    Raises
    ------
    Unavailable
        torch cannot export or compile the module; the message carries torch's reason.
    """
    from torch._inductor import aoti_compile_and_package, aoti_load_package

    program = trace(module, network, dtype)
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecations
        path = str(Path(folder) / "denoiser.pt2")
        try:
            entry: Callable[..., Tensor] = aoti_load_package(
                aoti_compile_and_package(program, package_path=path)
            )
        except Exception as error:  # the compiler raises many types; all mean the same here
            raise Unavailable(
                f"inductor cannot compile {network.name}: {first_line(error)}"
            ) from error
    return entry


def _compiler() -> str | None:
    """Return the C++ compiler that Inductor calls, if it is there."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return name if shutil.which(name) else None
