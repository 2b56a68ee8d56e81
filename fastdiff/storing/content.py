"""What names an entry of the cache: a hash of everything that decides what is compiled.

Two processes must find the same name for the same model, so nothing goes in that is only of one
process: no address, no order of a set, no text that Python makes of an object. And two models must
not share a name, so a value whose content cannot be told leaves its model without one.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
import types
from dataclasses import astuple, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fastdiff.compiling.machine import fingerprint
from fastdiff.compiling.options import CompileOptions
from fastdiff.networks import Network, OnnxFile
from fastdiff.sampling import Schedule
from fastdiff.storing.sources import is_installed, is_named, own_imports

_PLAIN = (bool, int, float, str, bytes, type(None), torch.dtype, torch.device)
_NOTES = {"_use_default_values", "_name_or_path"}
"""What diffusers notes beside a model's settings: a list in the order of a set, and a path."""
_UNUSED = {"_parameters", "_buffers", "_modules", "training"}
"""What modules hold and is added in another way, or not at all: what runs is in evaluation mode."""


class _Unknown(Exception):
    """Something in the module has a content that cannot be told."""


def cache_key(network: Network, schedule: Schedule, choices: CompileOptions) -> str | None:
    """Return the name of the entry, or None if the module's content cannot be told.

    Parameters
    ----------
    network : Network
        With its module, or the file that it was given as.
    schedule : Schedule
    choices : CompileOptions
    """
    content = _Content()
    try:
        content.add([network.name, network.sample_shape, network.batch, list(astuple(choices))])
        for name, spec in network.conditioning.items():
            content.add([name, *(getattr(spec, field.name) for field in fields(spec))])
        content.add([json.dumps(schedule.to_config(), sort_keys=True), fingerprint()])
        if network.file is not None:
            content.add_file(network.file)
        else:
            content.add(network.require_module())
    except (_Unknown, RecursionError):
        return None
    return content.digest.hexdigest()[:40]


class _Content:
    """Hashes values by their content."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self._sources: set[str] = set()  # modules of Python whose text is in
        self._within: set[int] = set()  # values that are being added

    def add(self, value: Any) -> None:
        """Add a value.

        Raises
        ------
        _Unknown
            Its content cannot be told, or contains itself.
        """
        if type(value) in _PLAIN:
            self._text(f"{type(value).__name__} {value!r}")
            return
        if id(value) in self._within:
            raise _Unknown
        self._within.add(id(value))
        if isinstance(value, Tensor):
            self._tensor(value)
        elif isinstance(value, nn.Module):
            self._tree(value)
        elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
            self._code(value)
        elif type(value) in {list, tuple}:
            self._items(type(value).__name__, value)
        elif type(value) in {set, frozenset}:
            self._items("set", sorted(_digest_of(item) for item in value))
        elif type(value) is dict:
            self._items("dict", [pair for pair in value.items() if pair[0] not in _NOTES])
        else:
            self._object(value)
        self._within.remove(id(value))

    def add_file(self, file: OnnxFile) -> None:
        """Add an ONNX file: which inputs are what, and the bytes of it and of its weights."""
        for name, port in {"x": file.x, "t": file.t, **file.conditioning}.items():
            self.add([name, *astuple(port)])
        self.add(file.output)
        for path in (file.path, *file.data):
            with path.open("rb") as stream:
                while block := stream.read(1 << 20):
                    self.digest.update(block)

    def _text(self, text: str) -> None:
        self.digest.update(f"{text}\n".encode())

    def _items(self, kind: str, values: list[Any] | tuple[Any, ...]) -> None:
        self._text(f"{kind} {len(values)}")
        for value in values:
            self.add(value)

    def _tensor(self, value: Tensor) -> None:
        if type(value) not in {Tensor, nn.Parameter, nn.Buffer}:
            raise _Unknown  # it may mean something else than its numbers
        try:
            plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
            content: Any = plain.flatten().view(torch.uint8).numpy()
        except (RuntimeError, TypeError) as error:  # sparse, quantised or without memory
            raise _Unknown from error
        self._text(f"tensor {plain.dtype} {tuple(plain.shape)}")
        self.digest.update(content)

    def _tree(self, root: nn.Module) -> None:
        """Add a module and all in it: classes with their source, settings, weights, structure."""
        numbers = {id(module): number for number, module in enumerate(root.modules())}
        for module in root.modules():
            self._code(type(module))
            children = [(k, m if m is None else numbers[id(m)]) for k, m in module._modules.items()]
            self.add([children, list(module._parameters.items()), list(module._buffers.items())])
            for name, value in sorted(vars(module).items()):
                if name.startswith("_forward") and value:  # hooks, which are anybody's code
                    raise _Unknown
                if name not in _UNUSED and not name.endswith("_hooks"):
                    self.add([name, value])

    def _object(self, value: Any) -> None:
        """Add an object by what `pickle` would write of it."""
        try:
            parts = value.__reduce_ex__(2)
        except Exception as error:  # whatever somebody's class raises
            raise _Unknown from error
        self._code(type(value))
        if isinstance(parts, str):  # the name of a constant
            self._text(parts)
            return
        make, arguments, state, items, pairs = (*parts, None, None, None)[:5]
        self.add([make, arguments, list(items or ()), dict(pairs or ())])
        self.add(dict(sorted(state.items())) if _is_state(state) else state)

    def _code(self, value: Any) -> None:
        """Add a class or a function: by its name if versions name it, a class else by its text."""
        name, module = value.__qualname__, value.__module__
        if module is None or getattr(value, "__closure__", None):
            raise _Unknown
        self._text(f"{module}.{name}")
        if not isinstance(value, type):
            if not is_named(module):
                raise _Unknown
            return
        for kind in value.__mro__:
            if not is_named(kind.__module__):
                try:
                    self._source(kind.__module__, Path(inspect.getsourcefile(kind) or ""))
                except (TypeError, OSError) as error:
                    raise _Unknown from error

    def _source(self, module: str, path: Path) -> None:
        """Add a file of Python, and all that it imports or the version of its package.

        So a change of the functions that a class calls counts as well.
        """
        if module in self._sources:
            return
        self._sources.add(module)
        self._text(module)
        self.digest.update(path.read_bytes())
        if is_installed(path):
            package = sys.modules.get(module.split(".")[0])
            self._text(f"version {getattr(package, '__version__', None)}")
            return
        for imported, file in own_imports(module, path):
            self._source(imported, file)


def _digest_of(value: Any) -> bytes:
    content = _Content()
    content.add(value)
    return content.digest.digest()


def _is_state(state: Any) -> bool:
    """Whether `state` is an object's attributes, whose order means nothing."""
    return type(state) is dict and all(type(name) is str for name in state)
