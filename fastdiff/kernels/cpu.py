"""The instruction level of this process: what the compiled kernels of the CPU run with.

It is decided here, once, when the kernels are imported: the best that the CPU has, or what
``FASTDIFF_CPU=portable|avx2|avx512|avx512_bf16|amx`` names. The kernels of noise and steps have
three levels, of which avx512 is the last; all give the same bits. Plans of networks have all five
(docs/native-backend.md).
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

_active = ""


def cpu_levels() -> dict[str, str | None]:
    """Levels of this build, slowest first, each with None if usable here, else with the reason."""
    return _native.network_levels()


def active_level() -> str:
    """Name of the level that this process runs at."""
    return _active


@contextmanager
def use_level(name: str) -> Iterator[None]:
    """Run the whole process at another level: what is built meanwhile is built for that one.

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
        _select(before, "CPU level")


def _select(name: str, kind: str) -> None:
    global _active
    levels = cpu_levels()
    if name not in levels:
        raise UnknownName(kind, name, levels)
    if reason := levels[name]:
        raise Unavailable(f"{kind} {name!r} cannot be used: {reason}")
    steps = _native.levels()
    _native.use_level(name if name in steps else list(steps)[-1])
    _active = name


def check_arithmetic() -> None:
    """Raise Unavailable if the compiler did not round as the source says, at any usable level."""
    for name, reason in _native.levels().items():
        if reason is None and (got := _native.fingerprint(name)) != FINGERPRINT:
            raise Unavailable(
                f"the {name} kernels round wrongly (fingerprint {got:#018x}, expected "
                f"{FINGERPRINT:#018x}); rebuild fastdiff with -ffp-contract=off and without "
                "-ffast-math, or report the compiler"
            )


def _best() -> str:
    return [name for name, reason in cpu_levels().items() if reason is None][-1]


check_arithmetic()
_select(os.environ.get("FASTDIFF_CPU") or _best(), "FASTDIFF_CPU level")
