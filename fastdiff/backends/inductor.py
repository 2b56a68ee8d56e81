"""The module compiled by torch's Inductor, ahead of time and for every batch size at once.

Ahead of time rather than ``torch.compile``: the figures in docs/backends.md have it faster, a call
checks no guards, and nothing can recompile or fall back to eager in the middle of a request.

Not yet executed on a GPU, which `inductor-cuda` runs on.
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

from fastdiff.backends.base import (
    Backend,
    BackendStatus,
    Denoiser,
    require_usable,
    temporary_folder,
    version_of,
)
from fastdiff.backends.cuda import DEVICE, cuda_status, full_float32
from fastdiff.errors import Unavailable
from fastdiff.networks import Network, first_line
from fastdiff.networks.precision import DTYPES, HOST, AtPrecision, trace

_PACKAGE = "denoiser.pt2"


class InductorBackend(Backend):
    """Exports the module with an open batch axis and compiles it with the compilers here.

    Parameters
    ----------
    name : str
    device : torch.device
    """

    sources = ("module",)
    slow_to_build = True  # 20 to 50 s for the digits model, minutes for a large U-Net

    def __init__(self, name: str = "inductor", device: torch.device = HOST) -> None:
        self.name, self.device = name, device
        on_gpu = device.type == "cuda"
        self.precisions = ("float32", "bfloat16", *(("float16",) if on_gpu else ()))

    def status(self) -> BackendStatus:
        compiler, missing = _compiler(), []
        if compiler is None:
            missing.append("needs a C++ compiler: apt install g++, or set CXX to one")
        software = f"torch {torch.__version__}, {compiler}; only when asked for"
        if self.device.type != "cuda":
            return BackendStatus(not missing, missing[0] if missing else software)
        if version_of("triton") is None:
            missing.append("needs Triton: pip install triton")
        if not _has_cuda_toolkit():
            missing.append("needs the headers of a CUDA toolkit: install one, or set CUDA_HOME")
        return cuda_status(software, missing)

    def build(
        self, network: Network, precision: str, blobs: Path | None = None
    ) -> InductorDenoiser:
        require_usable(self)
        kept = blobs / _PACKAGE if blobs is not None else None
        package = kept if kept and kept.exists() else None
        return InductorDenoiser(network, precision, self.name, self.device, package)


class InductorDenoiser(Denoiser):
    """A compiled copy of the module; its weights live in a shared library.

    Parameters
    ----------
    network : Network
    precision, backend : str
    device : torch.device
    package : Path, optional
        What was compiled before, instead of compiling. It is native code, and runs when it is read.
    """

    def __init__(
        self,
        network: Network,
        precision: str,
        backend: str,
        device: torch.device,
        package: Path | None = None,
    ) -> None:
        self.backend, self.precision, self.device = backend, precision, device
        self.input_dtype = self.output_dtype = DTYPES[precision]
        self.output_channels = network.probe()
        if package is None:
            package = temporary_folder(self) / _PACKAGE
            _compile(network, self.input_dtype, device, package)
        self._package = package
        self._run = _load(package, network, device)

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        named = dict(conditioning)

        def run() -> None:
            with torch.inference_mode(), full_float32(self.device):
                out.copy_(self._run(x, t, named))

        return run

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Write the shared library, which serves every batch size."""
        shutil.copyfile(self._package, folder / _PACKAGE)


def _compile(network: Network, dtype: torch.dtype, device: torch.device, path: Path) -> None:
    """Compile the module of `network` for `device` to a shared library in the package `path`.

    Raises
    ------
    Unavailable
        torch cannot export or compile the module; the message carries torch's reason.
    """
    from torch._inductor import aoti_compile_and_package

    program = trace(AtPrecision(network.require_module(), dtype, device), network, dtype)
    with _torch_errors(f"inductor cannot compile {network.name}"), full_float32(device):
        aoti_compile_and_package(program, package_path=str(path))


def _load(path: Path, network: Network, device: torch.device) -> Callable[..., Tensor]:
    """Load the shared library in `path` and return its entry.

    On a GPU it goes without the bookkeeping for several threads, whose events no graph captures.
    """
    from torch._inductor import aoti_load_package

    with _torch_errors(f"inductor cannot load {network.name} as compiled"):
        entry: Callable[..., Tensor] = aoti_load_package(
            str(path),
            run_single_threaded=device.type == "cuda",
            device_index=-1 if device.index is None else device.index,
        )
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


def _has_cuda_toolkit() -> bool:
    """Whether torch will find the headers that CUDA code is compiled with."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    return shutil.which("nvcc") is not None or any(home and Path(home).exists() for home in homes)


INDUCTOR = InductorBackend()
INDUCTOR_CUDA = InductorBackend("inductor-cuda", DEVICE)
