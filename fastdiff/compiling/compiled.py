"""Everything that a sampler is made of, and that an artifact keeps."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from fastdiff.backends import Denoiser
from fastdiff.compiling.report import Report
from fastdiff.compiling.trajectory import Trajectory
from fastdiff.networks import Network, evaluation_copy, skeleton
from fastdiff.sampling import Schedule


class Workspace:
    """A temporary folder that goes when nothing refers to this object any more."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="fastdiff-"))
        weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)


def give_back_memory() -> None:
    """Return to the system what nothing uses any more: glibc keeps what was freed in pieces."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def without_weights(network: Network) -> Network:
    """Return `network` without its samples, and the weights of a module whose file holds them.

    Its module is nobody else's.
    """
    module = network.module
    if module is not None:
        module = evaluation_copy(module) if network.onnx is None else skeleton(module)
    return replace(network, samples=(), module=module)


@dataclass(frozen=True)
class Compiled:
    """A model that was measured on this machine.

    Attributes
    ----------
    network : Network
        With its ONNX file where torch could write one, and a module without weights then.
    schedule : Schedule
    reference : Trajectory
        What the float32 model answers, which certificates compare with.
    denoiser : Denoiser
        The backend that was chosen.
    batch_seconds : mapping of int to float
        Its measured time by rows per call.
    report : Report
    workspace : Workspace
        Where ``network.onnx`` lies.
    """

    network: Network
    schedule: Schedule
    reference: Trajectory
    denoiser: Denoiser
    batch_seconds: Mapping[int, float]
    report: Report
    workspace: Workspace
