"""``fastdiff._cuda`` for the CPU: launchers and bindings of the GPU build over the emulator."""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.machinery import ExtensionFileLoader
from pathlib import Path
from types import ModuleType

import pytest
from emulator import ROOT, Library, Mutation, build

SOURCES = [
    ROOT / "csrc" / "cuda" / name
    for name in ("module.cpp", "runtime.cu", "step.cu", "gather.cu", "noise.cu", "attention.cu")
]


@contextmanager
def emulated_cuda(mutation: Mutation | None = None) -> Iterator[Library]:
    """Put the emulated kernels in the place of ``fastdiff._cuda``; yields their library."""
    pybind11 = pytest.importorskip(
        "pybind11", reason="needs pybind11 to build the emulated kernels"
    )
    includes = [pybind11.get_include(), sysconfig.get_paths()["include"]]
    flags = ["-fvisibility=hidden", *(f"-isystem{path}" for path in includes)]
    path = build(SOURCES, mutation=mutation, flags=flags)
    before = sys.modules.get("fastdiff._cuda")
    sys.modules["fastdiff._cuda"] = _load(path)
    try:
        yield Library(path)
    finally:
        del sys.modules["fastdiff._cuda"]
        if before is not None:
            sys.modules["fastdiff._cuda"] = before


def _load(path: Path) -> ModuleType:
    name = f"{path.stem}._cuda"  # pybind11 gives the same module again for the same name
    loader = ExtensionFileLoader(name, str(path))
    spec = importlib.util.spec_from_loader(name, loader)
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module
