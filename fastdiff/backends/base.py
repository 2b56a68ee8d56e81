"""The protocol between the runtime and the backends that evaluate a network."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidDtype, Unavailable
from fastdiff.networks import Network
from fastdiff.networks.precision import DTYPES

PRECISIONS = (*DTYPES, "int8")
"""What a backend may compute in. Integers take float32 in and out."""


class Denoiser(Protocol):
    """A network that is ready to be evaluated by one backend at one precision.

    Its calls follow each other: two of them may share the memory of their intermediate results.

    Attributes
    ----------
    backend, precision : str
        What it is, for reports.
    device : torch.device
        Where the tensors are that `bind` takes.
    input_dtype, output_dtype : torch.dtype
        Of x and of the output; t is always float32.
    output_channels : int
        C, or 2C when the network learned a variance.
    """

    @property
    def backend(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def input_dtype(self) -> torch.dtype: ...
    @property
    def output_dtype(self) -> torch.dtype: ...
    @property
    def output_channels(self) -> int: ...

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        """Prepare an evaluation of B rows on fixed buffers; each call of the result runs it anew.

        On a GPU a call may return before the work is done, which is on torch's current stream.

        Parameters
        ----------
        x : Tensor
            (B, C, H, W) `input_dtype`, contiguous.
        t : Tensor
            (B,) float32.
        conditioning : mapping of str to Tensor
            (B, ...) each, contiguous.
        out : Tensor
            (B, `output_channels`, H, W) `output_dtype`, contiguous; overwritten by each call.
            Never aliases x.
        """
        ...

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """Write what `Backend.build` takes as `blobs`; nothing where a build is quick anyway.

        Blobs are the backend's own compiled code: whoever reads them runs what is in them.

        Parameters
        ----------
        folder : Path
        batches : collection of int
            The batch sizes that matter, for backends that compile each by itself.
        """
        ...


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


class Backend(Protocol):
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

    @property
    def name(self) -> str: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def sources(self) -> tuple[str, ...]: ...
    @property
    def precisions(self) -> tuple[str, ...]: ...
    @property
    def slow_to_build(self) -> bool: ...

    def status(self) -> BackendStatus:
        """Say whether this backend runs on this machine, and why not."""
        ...

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
        ...


def trim(denoiser: Denoiser, batches: Collection[int]) -> None:
    """Let `denoiser` go of the memory that calls of other sizes than `batches` have taken.

    Denoisers that keep such memory have a method ``trim(batches)``. Calls that are bound already
    keep what they hold.
    """
    own: Callable[[Collection[int]], None] | None = getattr(denoiser, "trim", None)
    if own is not None:
        own(batches)


def rows_are_independent(denoiser: Denoiser) -> bool:
    """Whether a row has the same bits in any call: denoisers that see to it have the attribute."""
    return bool(getattr(denoiser, "rows_are_independent", False))


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
