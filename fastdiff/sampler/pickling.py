"""A sampler as bytes, for `pickle`, `copy.deepcopy` and processes that are spawned."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fastdiff.compiling.compiled import Compiled
from fastdiff.storing.artifact import save_artifact
from fastdiff.storing.recalling import load_artifact

_NAME = "sampler.fastdiff"


def to_bytes(compiled: Compiled) -> bytes:
    """Return the file that `Sampler.save` writes; errors are those of it."""
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
        path = Path(folder) / _NAME
        save_artifact(compiled, path)
        return path.read_bytes()


def from_bytes(data: bytes) -> Compiled:
    """Return what `to_bytes` was given; errors are those of `fastdiff.load`."""
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
        path = Path(folder) / _NAME
        path.write_bytes(data)
        return load_artifact(path, lambda stage: None)
