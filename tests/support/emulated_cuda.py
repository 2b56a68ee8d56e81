"""``fastdiff._cuda`` for the CPU: launchers and bindings of the GPU build over the emulator."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from types import ModuleType

import pybind11
from emulator import ROOT, Library, Mutation, build

import fastdiff

SOURCES = [
    ROOT / "csrc" / "cuda" / name
    for name in ("module.cpp", "runtime.cu", "step.cu", "gather.cu", "noise.cu", "attention.cu")
]


@contextmanager
def emulated_cuda(mutation: Mutation | None = None) -> Iterator[Library]:
    """Put the emulated kernels in the place of ``fastdiff._cuda``; yields their library."""
    includes = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    flags = ["-fvisibility=hidden", *(f"-isystem{path}" for path in includes)]
    path = build(SOURCES, mutation=mutation, flags=flags)
    before = sys.modules.get("fastdiff._cuda"), getattr(fastdiff, "_cuda", None)
    sys.modules["fastdiff._cuda"] = _load(str(path))
    try:
        yield Library(path)
    finally:
        _restore(*before)


def _load(path: str) -> ModuleType:
    loader = ExtensionFileLoader("fastdiff._cuda", path)
    spec = importlib.util.spec_from_loader("fastdiff._cuda", loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def _restore(module: ModuleType | None, attribute: ModuleType | None) -> None:
    del sys.modules["fastdiff._cuda"]
    if module is not None:
        sys.modules["fastdiff._cuda"] = module
    if attribute is not None:
        fastdiff._cuda = attribute
