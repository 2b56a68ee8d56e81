"""The module compiled by torch's Inductor, ahead of time and for every batch size at once.

Ahead of time rather than ``torch.compile``: the figures in docs/engines.md have it faster, a call
checks no guards, and nothing can recompile or fall back to eager in the middle of a request.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastdiff.denoisers.base import DTYPES, EngineStatus, temporary_folder
from fastdiff.denoisers.precision import AtPrecision, trace
from fastdiff.errors import Unavailable
from fastdiff.exporting import Network, first_line

_PACKAGE = "denoiser.pt2"


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

    def build(
        self, network: Network, precision: str, blobs: Path | None = None
    ) -> InductorDenoiser:
        status = self.status()
        if not status.usable:
            raise Unavailable(f"inductor cannot run here: {status.detail}")
        kept = blobs / _PACKAGE if blobs is not None else None
        return InductorDenoiser(network, precision, kept if kept and kept.exists() else None)


class InductorDenoiser:
    """A compiled copy of the module; its weights live in a shared library.

    Parameters
    ----------
    network : Network
    precision : str
    package : Path, optional
        What was compiled before, instead of compiling. It is native code, and runs when it is read.
    """

    engine = "inductor"

    def __init__(self, network: Network, precision: str, package: Path | None = None) -> None:
        self.precision = precision
        self.input_dtype = self.output_dtype = DTYPES[precision]
        self.output_channels = network.probe()
        if package is None:
            package = temporary_folder(self) / _PACKAGE
            _compile(network, self.input_dtype, package)
        self._package = package
        self._run = _load(package, network)

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        named = dict(conditioning)

        def run() -> None:
            with torch.inference_mode():
                out.copy_(self._run(x, t, named))

        return run

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Write the shared library, which serves every batch size."""
        shutil.copyfile(self._package, folder / _PACKAGE)


def _compile(network: Network, dtype: torch.dtype, path: Path) -> None:
    """Compile the module of `network` to a shared library in the package `path`.

    Raises
    ------
    Unavailable
        torch cannot export or compile the module; the message carries torch's reason.
    """
    from torch._inductor import aoti_compile_and_package

    program = trace(AtPrecision(network.require_module(), dtype), network, dtype)
    with _torch_errors(f"inductor cannot compile {network.name}"):
        aoti_compile_and_package(program, package_path=str(path))


def _load(path: Path, network: Network) -> Callable[..., Tensor]:
    """Load the shared library in `path` and return its entry."""
    from torch._inductor import aoti_load_package

    with _torch_errors(f"inductor cannot load {network.name} as compiled"):
        entry: Callable[..., Tensor] = aoti_load_package(str(path))
    return entry


@contextlib.contextmanager
def _torch_errors(what: str) -> Iterator[None]:
    """Turn the many types that torch raises, which all mean the same here, into one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own deprecations
        try:
            yield
        except Exception as error:
            raise Unavailable(f"{what}: {first_line(error)}") from error


def _compiler() -> str | None:
    """Return the C++ compiler that Inductor calls, if it is there."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    return name if shutil.which(name) else None
