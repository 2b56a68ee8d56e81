"""The backends there are: every file beside this one that has instances of `Backend` on top."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

from fastdiff.backends.base import Backend, BackendStatus, Denoiser
from fastdiff.backends.fixed_batch import FixedBatch
from fastdiff.errors import Unavailable, UnknownName
from fastdiff.networks import Network


def _backends() -> dict[str, Backend]:
    """Return all by name: those of the host first, and those that are slow to build last."""
    room = importlib.import_module("fastdiff.backends")
    modules = [
        importlib.import_module(f"fastdiff.backends.{module.name}")
        for module in pkgutil.iter_modules(room.__path__)
        if module.name != "registry"
    ]
    found = [value for m in modules for value in vars(m).values() if isinstance(value, Backend)]
    found.sort(key=lambda backend: (backend.device.type, backend.slow_to_build))
    return {backend.name: backend for backend in found}


BACKENDS: dict[str, Backend] = _backends()


def get_backend(name: str) -> Backend:
    """Return the backend called `name`, which must be usable on this machine.

    Raises
    ------
    UnknownName
        There is no such backend.
    Unavailable
        There is, but it cannot run here; the message says what to install.
    """
    if name not in BACKENDS:
        raise UnknownName("backend", name, ["auto", *BACKENDS])
    status = BACKENDS[name].status()
    if not status.usable:
        raise Unavailable(f"backend {name!r} cannot run here: {status.detail}")
    return BACKENDS[name]


def build_denoiser(
    backend: str, network: Network, precision: str, blobs: Path | None = None
) -> Denoiser:
    """Prepare `network` for calls of any number of rows; see `Backend.build` and `get_backend`."""
    denoiser = get_backend(backend).build(network, precision, blobs)
    return denoiser if network.batch is None else FixedBatch(denoiser, network.batch)


def backend_status() -> dict[str, BackendStatus]:
    """Return the status of every backend by name."""
    return {name: backend.status() for name, backend in BACKENDS.items()}
