"""Compile CUDA sources for the CPU and run them: see ``tests/cuda_on_cpu/README.md``."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from building import claimed

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "emulator"
INCLUDES = [ROOT / "csrc" / "include", ROOT / "csrc" / "cuda", ROOT / "tests" / "cuda_on_cpu"]
FLAGS = ["-std=c++17", "-O1", "-g1", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror"]
UNOPTIMISED = "-O0"
"""For what runs once: optimising it takes longer than it saves."""

SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", UNOPTIMISED]

ORDERS = ("lock_step", "ahead", "reverse", "random")
COPIES = ("early", "late", "random")
COUNTERS = ("blocks", "barriers", "matrix_products", "matrix_loads", "bank_conflicts")


class KernelFault(AssertionError):
    """A kernel deadlocked, left its memory, or misused an instruction."""


@dataclass(frozen=True)
class Schedule:
    """In which order threads run and when cp.async lands; ``seed`` is for what is random."""

    order: str = "lock_step"
    copies: str = "late"
    seed: int = 0

    def __str__(self) -> str:
        return f"{self.order}-{self.copies}-{self.seed}"


SCHEDULES = tuple(Schedule(order, copies) for order, copies in product(ORDERS, COPIES)) + tuple(
    Schedule("random", "random", seed) for seed in (1, 2)
)
"""A correct kernel gives the same result in every one of these."""


@dataclass(frozen=True)
class Mutation:
    """One edit of a source file: ``old``, which occurs there exactly once, becomes ``new``."""

    path: Path
    old: str
    new: str

    def apply(self) -> str:
        text = self.path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.path.name} holds {text.count(self.old)} times: {self.old!r}")
        return text.replace(self.old, self.new)


def build(
    sources: Sequence[Path],
    *,
    mutation: Mutation | None = None,
    sanitize: bool = False,
    flags: Sequence[str] = (),
) -> Path:
    """Compile CUDA sources into a shared library that runs them on the CPU.

    Parameters
    ----------
    sources : sequence of Path
        ``.cu`` and ``.cpp`` files; their kernels are started by ``extern "C"`` functions.
    mutation : Mutation, optional
        An edit of one of the sources, or of a header that they include.
    sanitize : bool
        Builds for AddressSanitizer and UndefinedBehaviorSanitizer; load it in a process started
        with :func:`sanitizer_environment`.
    flags : sequence of str
        More compiler flags.

    Returns
    -------
    Path
        The library, under ``build/emulator``: compiled once for each content of the sources, of
        the headers and of the flags.
    """
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        raise RuntimeError("the emulator needs a C++17 compiler: apt install g++, or set CXX")
    command = [compiler, *FLAGS, *(SANITIZERS if sanitize else ()), *flags]
    objects = [_compile(command, path, mutation) for path in sources]
    library = _cached("".join([*command, *(path.name for path in objects)]), sources[0].stem, ".so")
    with claimed(library) as missing:
        if missing:
            _run([*command, "-shared", *map(str, objects)], library)
    return library


def _compile(command: Sequence[str], source: Path, mutation: Mutation | None) -> Path:
    """Return the object file of one source, compiled unless it was before."""
    headers = _included(source)
    if mutation and mutation.path not in (source, *headers):
        mutation = None
    if mutation:
        command = [*command, UNOPTIMISED, "-Wno-error"]  # an edit may leave a name unused
    content = "".join([*command, repr(mutation), *(p.read_text() for p in [source, *headers])])
    compiled = _cached(content, source.stem, ".o")
    with claimed(compiled) as missing, tempfile.TemporaryDirectory() as scratch:
        if not missing:
            return compiled
        root = ROOT
        if mutation is not None:  # an edited copy of the tree: quoted includes stay inside of it
            root = Path(scratch)
            for path in [source, *headers, mutation.path]:
                copy = root / path.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, copy)
            (root / mutation.path.relative_to(ROOT)).write_text(mutation.apply())
        includes = [f"-I{root / path.relative_to(ROOT)}" for path in INCLUDES]
        source = root / source.relative_to(ROOT)
        _run([*command, *includes, "-c", "-xc++", str(source)], compiled)
    return compiled


def _included(source: Path) -> list[Path]:
    """The headers of this repository that a source includes, in quotes, whoever includes them."""
    found: dict[Path, None] = {}
    unread = [source]
    while unread:
        file = unread.pop()
        for name in re.findall(r'^#include "([^"]+)"', file.read_text(), re.M):
            for path in (folder / name for folder in (file.parent, *INCLUDES)):
                if path.exists() and path not in found:
                    found[path] = None
                    unread.append(path)
    return sorted(found)


def _cached(content: str, stem: str, suffix: str) -> Path:
    return BUILD / f"{stem}-{hashlib.sha256(content.encode()).hexdigest()[:16]}{suffix}"


def _run(command: Sequence[str], output: Path) -> None:
    """Run a compiler; its output appears complete or not at all."""
    partial = output.with_suffix(".partial")
    command = [*command, "-o", str(partial)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")
    partial.replace(output)


class Library:
    """A compiled library: its ``extern "C"`` functions, which return 0 or a fault."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.emulator_error.restype = ctypes.c_char_p

    @contextmanager
    def schedule(self, schedule: Schedule) -> Iterator[None]:
        """Run what is called inside in another schedule."""
        self._set(schedule)
        try:
            yield
        finally:
            self._set(Schedule())

    def _set(self, schedule: Schedule) -> None:
        order, copies = ORDERS.index(schedule.order), COPIES.index(schedule.copies)
        self._library.emulator_schedule(order, copies, ctypes.c_uint64(schedule.seed))

    def call(self, function: str, *arguments: Any) -> None:
        """Call a launcher with arrays (as addresses), ints (as int), floats and ctypes values.

        Raises
        ------
        KernelFault
            If the emulator found one; the message names the thread and the line.
        """
        if getattr(self._library, function)(*map(_argument, arguments)):
            raise KernelFault(self._library.emulator_error().decode())

    def counters(self) -> dict[str, int]:
        """What the kernels did since the last time this was called."""
        values = np.zeros(len(COUNTERS), np.uint64)
        self._library.emulator_counters(_argument(values))
        return dict(zip(COUNTERS, values.tolist(), strict=True))


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if not value.flags.c_contiguous:
            raise ValueError("kernels take contiguous arrays")
        return ctypes.c_void_p(value.ctypes.data)
    if hasattr(value, "data_ptr"):  # a tensor; importing torch takes a sanitized process long
        return ctypes.c_void_p(value.data_ptr())
    if isinstance(value, float):
        return ctypes.c_float(value)
    return value


def sanitizer_environment() -> dict[str, str]:
    """Environment in which a Python process can load a library built with ``sanitize=True``."""
    compiler = os.environ.get("CXX", "c++")
    libraries = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so"):
        command = [compiler, f"-print-file-name={name}"]
        found = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        libraries.append(str(Path(found).resolve()))
    options = "detect_leaks=0:abort_on_error=0:exitcode=99"
    return {**os.environ, "LD_PRELOAD": " ".join(libraries), "ASAN_OPTIONS": options}
