"""The contract of a backend: what evaluates a network, and what builds that."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import shutil
import tempfile
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidDtype, Unavailable
from fastdiff.networks import Network
from fastdiff.networks.precision import DTYPES, HOST

PRECISIONS = (*DTYPES, "int8")
"""What a backend may compute in. Integers take float32 in and out."""


class Denoiser(ABC):
    """A network that is ready to be evaluated by one backend at one precision.

    A subclass says what it is by the attributes, and has `bind`; all else has a default that is
    right for most. Its calls follow each other: two of them may share the memory of their
    intermediate results.

    Attributes
    ----------
    backend, precision : str
        What it is, for reports.
    output_channels : int
        C, or 2C when the network learned a variance.
    device : torch.device
        Where the tensors are that `bind` takes.
    input_dtype, output_dtype : torch.dtype
        Of x and of the output; t is always float32.
    rows_are_independent : bool
        A row has the same bits in any call, whatever else is in it and however many rows there are.
    own_threads : bool
        Its calls run on fastdiff's own threads instead of torch's (csrc/cpu/thread_pool.h). What
        the sampler does between them then does too.
    eager_because : str or None
        Why a call cannot be captured in a CUDA graph; None where it can.
    """

    backend: str
    precision: str
    output_channels: int
    device: torch.device = HOST
    input_dtype: torch.dtype = torch.float32
    output_dtype: torch.dtype = torch.float32
    rows_are_independent: bool = False
    own_threads: bool = False
    eager_because: str | None = None

    @property
    def version(self) -> object:
        """What changes when a captured call is stale; compared with ``==``, None for never."""
        return None

    @abstractmethod
    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        """Prepare an evaluation of B rows on fixed buffers; each call of the result runs it anew.

        The result keeps what it needs alive, the buffers as well. On a GPU a call may return before
        the work is done, which is on torch's current stream.

        Parameters
        ----------
        x : Tensor
            (B, C, ...) `input_dtype`, contiguous. Read by each call, never written.
        t : Tensor
            (B,) float32.
        conditioning : mapping of str to Tensor
            (B, ...) each, contiguous.
        out : Tensor
            (B, `output_channels`, ...) `output_dtype`, contiguous; overwritten by each call.
            Never aliases x.
        """

    def trim(self, batches: Collection[int]) -> None:  # noqa: B027
        """Let go of the memory that calls of other sizes than `batches` have taken.

        Calls that are bound already keep what they hold. The default holds nothing.
        """

    def save(self, folder: Path, batches: Collection[int]) -> None:  # noqa: B027
        """Write what `Backend.build` takes as `blobs`; by default nothing, as builds are quick.

        Blobs are the backend's own compiled code: whoever reads them runs what is in them.

        Parameters
        ----------
        folder : Path
        batches : collection of int
            The batch sizes that matter, for backends that compile each by itself.
        """


@dataclass(frozen=True)
class BackendStatus:
    """Whether a backend can run here.

    Attributes
    ----------
    usable : bool
    detail : str
        Version and device when usable; otherwise the reason and what to install.
    """

    usable: bool
    detail: str


class Backend(ABC):
    """A way to evaluate networks: eager torch, onnxruntime, ...

    Attributes
    ----------
    name : str
    device : torch.device
        What it runs on.
    precisions : tuple of str
        What it can compute in.
    sources : tuple of str
        What it can start from, ``"module"`` or ``"onnx"``: the first that the network has.
    slow_to_build : bool
        Whether a build takes so long that only an explicit choice should start one.
    """

    name: str
    device: torch.device = HOST
    precisions: tuple[str, ...] = ("float32",)
    sources: tuple[str, ...] = ("onnx",)
    slow_to_build: bool = False

    @abstractmethod
    def status(self) -> BackendStatus:
        """Say whether this backend runs on this machine, and why not."""

    @abstractmethod
    def build(self, network: Network, precision: str, blobs: Path | None = None) -> Denoiser:
        """Prepare `network`, whose file is there if the backend starts from that.

        Parameters
        ----------
        network : Network
        precision : str
        blobs : Path, optional
            A folder that `Denoiser.save` wrote for this network and precision on a machine of the
            same fingerprint, and that is trusted. What is there is not compiled again.

        Raises
        ------
        Unavailable
            This machine cannot run it.
        """


def require_usable(backend: Backend) -> None:
    """Raise `Unavailable` with the reason if `backend` does not run on this machine."""
    status = backend.status()
    if not status.usable:
        raise Unavailable(f"{backend.name} cannot run here: {status.detail}")


def temporary_folder(owner: object) -> Path:
    """Return a new folder that goes when `owner` does."""
    folder = Path(tempfile.mkdtemp(prefix="fastdiff-"))
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return folder


def version_of(module: str, *distributions: str) -> str | None:
    """Return the installed version of `module` without importing it; None if it is not there.

    Parameters
    ----------
    module : str
        Top-level module.
    *distributions : str
        Names of packages that provide it, if they are not called like it.
    """
    if importlib.util.find_spec(module) is None:
        return None
    for name in distributions or (module,):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(name)
    return "of unknown version"


def onnx_path(network: Network, backend: str) -> Path:
    """Return the file that `network` was exported to, which `backend` reads."""
    if network.onnx is None:
        raise InvalidArgument(
            f"{backend} reads ONNX and {network.name} has not been exported; "
            "use fastdiff.exporting.export_onnx"
        )
    return network.onnx


def numpy_view(name: str, tensor: Tensor) -> np.ndarray[Any, np.dtype[Any]]:
    """Return the memory of the host tensor `tensor` as an array.

    Raises
    ------
    InvalidDtype
        NumPy has no such element type.
    """
    try:
        view: np.ndarray[Any, np.dtype[Any]] = tensor.numpy()
    except TypeError as error:
        raise InvalidDtype(
            f"{name}: expected an element type that NumPy has, got {tensor.dtype}; "
            "backend='eager' takes every type"
        ) from error
    return view
