"""Plain onnxruntime sessions on the CPU, and how their errors are told.

onnxruntime takes a second to import and is imported where it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fastdiff.errors import FastdiffError, InvalidArgument

if TYPE_CHECKING:
    import onnxruntime


def open_session(path: Path, name: str) -> onnxruntime.InferenceSession:
    """Load a file on the CPU.

    Raises
    ------
    InvalidArgument
        onnxruntime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no other root
        raise InvalidArgument(f"onnxruntime cannot load {name}: {error}") from error


def first_line(error: BaseException) -> str:
    """Return what an error of fastdiff says, or the reason that another's pages go back to."""
    while error.__cause__ is not None and not isinstance(error, FastdiffError):
        error = error.__cause__
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].lstrip(' -')}" if rest and first.endswith(":") else first
