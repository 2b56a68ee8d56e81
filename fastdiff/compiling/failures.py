"""What becomes of an error inside one of several backends: a refusal, and compiling goes on."""

from __future__ import annotations

import logging

import torch

from fastdiff.errors import FastdiffError
from fastdiff.networks import first_line

_log = logging.getLogger(__name__)
_EXPECTED = (FastdiffError, MemoryError, torch.OutOfMemoryError)


def reason_of(error: Exception, what: str) -> str:
    """Return why `what` cannot be used, in a line.

    The traceback of an error that was not raised to say so goes to the log.

    Raises
    ------
    Warning
        The error is one: the caller has asked for warnings to be errors.
    """
    if isinstance(error, Warning):
        raise error
    if isinstance(error, _EXPECTED):
        return first_line(error)
    _log.warning("%s failed and is not used", what, exc_info=error)
    return f"{type(error).__name__}: {first_line(error)}"
