"""The instruction level that the CPU kernels use, and why the others are not used.

``FASTDIFF_CPU=portable|avx2|avx512`` chooses an instruction level for the whole process.
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
"""The hash of some normals and of a solver step, if no compiler has changed their arithmetic.

csrc/cpu/fingerprint.cpp computes it. It has nothing to do with the fingerprint of a machine
(`fastdiff.compiling.machine`).
"""


def cpu_levels() -> dict[str, str | None]:
    """Return the instruction levels of this build, slowest first.

    The value is None if the level can be used on this CPU, else the reason why not.
    """
    return _native.levels()


def active_level() -> str:
    """Return the name of the instruction level that the kernels use."""
    return _native.active_level()


@contextmanager
def use_level(name: str) -> Iterator[None]:
    """Run the kernels of the whole process at another instruction level. The bits are the same.

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
    """Raise Unavailable if a usable instruction level does not round as the source says."""
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
