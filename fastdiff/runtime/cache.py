"""Compiled models kept between processes, under the user's cache folder.

An entry is an artifact named by a hash of everything that decides its content: weights, structure
and source of the module, schedule, conditioning, the choices asked for, the machine and the
versions of torch and fastdiff. A module whose content cannot be told from outside is not cached.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import inspect
import json
import os
import types
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import Tensor, nn

from fastdiff.errors import InvalidArgument
from fastdiff.exporting import Network, OnnxFile
from fastdiff.paths import cache_folder
from fastdiff.runtime.choices import Choices
from fastdiff.runtime.machine import fingerprint
from fastdiff.sampling import Schedule

_DEFAULT_BYTES = 10 << 30
_SUFFIX = ".fastdiff"
_CODE_TYPES = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, functools.partial)
_KNOWN_CODE = {"torch", "builtins", "math"}  # packages whose functions a name identifies


@dataclass(frozen=True)
class Entry:
    """A cached model: its file, its size in bytes, and when it was last used (seconds, POSIX)."""

    path: Path
    size: int
    used: float


class Cache:
    """A folder of artifacts, the least recently used of which go when it is full.

    Parameters
    ----------
    folder : Path, optional
        `fastdiff.paths.cache_folder` by default.
    limit_bytes : int, optional
        ``$FASTDIFF_CACHE_BYTES``, else 10 GiB.
    """

    def __init__(self, folder: Path | None = None, limit_bytes: int | None = None) -> None:
        self.folder = folder or cache_folder()
        self.limit_bytes = _limit() if limit_bytes is None else limit_bytes

    def path(self, key: str) -> Path:
        """Return where the entry `key` lies or will lie."""
        return self.folder / f"{key}{_SUFFIX}"

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Hold the entry `key` alone among all processes: one compiles, the others wait for it."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with FileLock(self.folder / f"{key}.lock"):
            yield

    def entries(self) -> list[Entry]:
        """List what is there, the most recently used first."""
        found = []
        for path in self.folder.glob(f"*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append(Entry(path, stat.st_size, stat.st_mtime))
        return sorted(found, key=lambda entry: entry.used, reverse=True)

    def touch(self, key: str) -> None:
        """Note that the entry `key` was used now."""
        os.utime(self.path(key))

    def trim(self) -> None:
        """Remove the least recently used entries until the rest fits; the newest stays."""
        total = 0
        for index, entry in enumerate(self.entries()):
            total += entry.size
            if index > 0 and total > self.limit_bytes:
                entry.path.unlink(missing_ok=True)

    def clear(self) -> int:
        """Remove every entry and return how many there were."""
        entries = self.entries()
        for entry in entries:
            entry.path.unlink(missing_ok=True)
        for lock in self.folder.glob("*.lock"):
            lock.unlink(missing_ok=True)
        return len(entries)


def _limit() -> int:
    text = os.environ.get("FASTDIFF_CACHE_BYTES", str(_DEFAULT_BYTES))
    if not text.isdigit():
        raise InvalidArgument(f"FASTDIFF_CACHE_BYTES: expected a number of bytes, got {text!r}")
    return int(text)


class _Unknown(Exception):
    """Something in the module has a content that cannot be told."""


def cache_key(network: Network, schedule: Schedule, choices: Choices) -> str | None:
    """Return the name of the entry, or None if the module's content cannot be told.

    Parameters
    ----------
    network : Network
        With its module, or the file that it was given as.
    schedule : Schedule
    choices : Choices
    """
    digest = hashlib.sha256()
    try:
        _add(digest, [network.name, network.sample_shape, list(astuple(choices))])
        for name, spec in network.conditioning.items():
            _add(digest, [name, spec.shape, spec.dtype, spec.null, spec.num_classes])
            _add(digest, spec.value_range)
        _add(digest, [json.dumps(schedule.to_config(), sort_keys=True), fingerprint()])
        _add(digest, network.batch)
        if network.file is not None:
            _add_file(digest, network.file)
            return digest.hexdigest()[:40]
        for name, module in network.require_module().named_modules():
            _add_module(digest, name, module)
    except (_Unknown, RecursionError):
        return None
    return digest.hexdigest()[:40]


def _add_file(digest: Any, file: OnnxFile) -> None:
    """Add an ONNX file: which inputs are what, and the bytes of it and of its weights."""
    for name, port in {"x": file.x, "t": file.t, **file.conditioning}.items():
        _add(digest, [name, *astuple(port)])
    _add(digest, file.output)
    for path in (file.path, *file.data):
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)


def _add_module(digest: Any, name: str, module: nn.Module) -> None:
    """Add one module: its class and the source that defines it, its state and its settings."""
    _add(digest, name)
    _add_class(digest, type(module))
    for attribute, value in sorted(module.__dict__.items()):
        if attribute in {"_parameters", "_buffers"}:
            for key, tensor in value.items():
                _add(digest, [key, tensor])
        elif "_hooks" in attribute:
            if value:
                raise _Unknown
        elif attribute != "_modules":
            _add(digest, [attribute, value])


def _add_class(digest: Any, kind: type) -> None:
    """Add a class by the whole file that defines it, so that a change of its helpers counts too."""
    _add(digest, [kind.__module__, kind.__qualname__])
    if kind.__module__.startswith("torch."):
        return  # its source goes with torch's version
    try:
        digest.update(Path(inspect.getsourcefile(kind) or "").read_bytes())
    except (TypeError, OSError) as error:
        raise _Unknown from error


def _add(digest: Any, value: Any) -> None:
    """Add a value of a kind whose text or bytes are its whole content."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu().contiguous()
        digest.update(f"tensor {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy())
    elif value is None or isinstance(
        value, (bool, int, float, str, bytes, torch.dtype, torch.device)
    ):
        digest.update(f"{type(value).__name__} {value!r}\n".encode())
    elif isinstance(value, (list, tuple, set, frozenset)):
        digest.update(f"{type(value).__name__} {len(value)}\n".encode())
        for item in sorted(value, key=repr) if isinstance(value, (set, frozenset)) else value:
            _add(digest, item)
    elif isinstance(value, dict):
        digest.update(f"dict {len(value)}\n".encode())
        for key in value:
            _add(digest, [key, value[key]])
    elif callable(value) and getattr(value, "__module__", "").split(".")[0] in _KNOWN_CODE:
        digest.update(f"{value.__module__}.{getattr(value, '__qualname__', value)}\n".encode())
    elif hasattr(value, "__dict__") and not isinstance(value, (type, *_CODE_TYPES)):
        _add_class(digest, type(value))
        _add(digest, vars(value))
    else:
        raise _Unknown
