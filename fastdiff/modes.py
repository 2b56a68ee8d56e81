"""torch's modes and random states belong to the caller: none decides a result, none is changed.

Modes of a thread are set aside by `own_modes`. The default dtype belongs to the whole process, so
the library states the dtype of all that it makes instead. Other people's networks may rely on the
default: `float32_default` surrounds their evaluation and their compilation.
"""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch

_CPU = torch.device("cpu")
_AUTOCAST = ("cpu", "cuda")


def own_modes() -> contextlib.AbstractContextManager[object]:
    """Leave the caller's autocast, inference mode and default device for a while."""
    autocast = any(map(torch.is_autocast_enabled, _AUTOCAST))
    # The default device is a mode on this stack, and asking for it takes as long as a whole step.
    if autocast or torch.is_inference_mode_enabled() or torch._C._len_torch_function_stack():
        return _set_aside()
    return contextlib.nullcontext()


@contextlib.contextmanager
def _set_aside() -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        for device in _AUTOCAST:
            stack.enter_context(torch.autocast(device, enabled=False))
        if torch.get_default_device() != _CPU:
            stack.enter_context(_CPU)
        yield


class _Float32Default:
    """Counts who needs the default dtype to be float32; the last to leave restores the caller's."""

    def __init__(self) -> None:
        self._lock, self._users, self._callers = threading.Lock(), 0, torch.float32

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._callers = torch.get_default_dtype()
            self._users += 1
            if self._callers != torch.float32:
                torch.set_default_dtype(torch.float32)

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0 and self._callers != torch.float32:
                torch.set_default_dtype(self._callers)


float32_default = _Float32Default()
"""Context in which torch's default dtype is float32, for all threads where it was another."""


@contextlib.contextmanager
def compiling() -> Iterator[None]:
    """Surround all work on somebody's network besides sampling: no mode or random state shows."""
    with own_modes(), float32_default, _kept_random_states():
        yield


@contextlib.contextmanager
def _kept_random_states() -> Iterator[None]:
    """Put the process's random states back at the end, whatever somebody's network draws."""
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the process's own
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)  # noqa: NPY002
