"""Which instruction-set level the CPU kernels run at, and why another one does not.

``FASTDIFF_CPU=portable|avx2|avx512`` forces a level for the whole process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from fastdiff.errors import Unavailable, UnknownName

try:
    from fastdiff import _native
except ImportError as error:
    raise Unavailable(
        f"the compiled kernels cannot be loaded ({error}); build them with "
        "'pip install .' in the source tree, or reinstall fastdiff-runtime"
    ) from error

FINGERPRINT = 0x963F10ACC6F2ACD3
"""Hash of normals and of one solver step, fixed by the arithmetic (csrc/cpu/fingerprint.cpp)."""


def cpu_levels() -> dict[str, str | None]:
    """Levels of this build, slowest first, each with None if usable here, else with the reason."""
    return _native.levels()


def active_level() -> str:
    """Name of the level that the kernels run at."""
    return _native.active_level()


@contextmanager
def use_level(name: str) -> Iterator[None]:
    """Run the kernels of the whole process at another level, all of which give the same bits.

    Parameters
    ----------
    name : str
        A key of :func:`cpu_levels`.

    Raises
    ------
    UnknownName
        If this build has no such level.
    Unavailable
        If this CPU cannot run it.
    """
    before = active_level()
    _select(name, "CPU level")
    try:
        yield
    finally:
        _native.use_level(before)


def _select(name: str, kind: str) -> None:
    levels = cpu_levels()
    if name not in levels:
        raise UnknownName(kind, name, levels)
    if reason := levels[name]:
        raise Unavailable(f"{kind} {name!r} cannot be used: {reason}")
    _native.use_level(name)


def check_arithmetic() -> None:
    """Raise Unavailable if the compiler did not round as the source says, at any usable level."""
    for name, reason in cpu_levels().items():
        if reason is None and (got := _native.fingerprint(name)) != FINGERPRINT:
            raise Unavailable(
                f"the {name} kernels round wrongly (fingerprint {got:#018x}, expected "
                f"{FINGERPRINT:#018x}); rebuild fastdiff with -ffp-contract=off and without "
                "-ffast-math, or report the compiler"
            )


check_arithmetic()
if requested := os.environ.get("FASTDIFF_CPU"):
    _select(requested, "FASTDIFF_CPU level")
