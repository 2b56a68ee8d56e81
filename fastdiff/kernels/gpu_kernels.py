"""Chooses the kernel that computes an operator on a GPU, and says why the others do not.

A kernel is not used if it is not built, cannot be compiled, raises, or gives wrong results when it
first runs on a device (`fastdiff.kernels.first_use`). It is then reported by name, and the kernel
in the next language is tried. ``FASTDIFF_GPU=cuda|triton`` allows one language only.
``fastdiff doctor --gpu`` shows the state of every kernel.
"""

from __future__ import annotations

import importlib
import os
import textwrap
import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from fastdiff.errors import KernelWarning, Unavailable, UnknownName
from fastdiff.kernels import cuda_module, triton_module

LANGUAGES = ("cuda", "triton")
"""The languages of GPU kernels, in order of preference."""

STATUS = {"cuda": cuda_module.status, "triton": triton_module.status}
"""For each language a function that returns why it is not available here, or None if it is."""

KERNELS = {"fill_normal": "noise", "step": "step", "gather": "step", "attention": "attention"}
"""By operator: its room, which has a module for each of `LANGUAGES`."""


@cache
def gpu_kernel(operator: str, device: torch.device) -> Callable[..., Any]:
    """Return the first kernel of `operator` that can be used on a CUDA device.

    Parameters
    ----------
    operator : str
        One of `KERNELS`.
    device : torch.device

    Raises
    ------
    Unavailable
        No language can be used here; the message has the reason for each.
    UnknownName
        ``FASTDIFF_GPU`` names a language that is not one of `LANGUAGES`.
    """
    reasons = []
    for language in LANGUAGES:
        reason = refusal(operator, language, device)
        if reason is None:
            return load(operator, language)
        reasons.append(f"{language}: {reason}")
    raise Unavailable(f"no GPU kernel for {operator}: {'; '.join(reasons)}")


def load(operator: str, language: str) -> Callable[..., Any]:
    """Import a kernel; whatever its compiler and libraries raise passes through."""
    module = importlib.import_module(f"fastdiff.kernels.{KERNELS[operator]}.{language}")
    kernel: Callable[..., Any] = getattr(module, operator)
    return kernel


def refusal(operator: str, language: str, device: torch.device) -> str | None:
    """Return why a kernel cannot be used on a device, or None if it can.

    The first call in a process checks the kernel on the device.

    Warns
    -----
    KernelWarning
        The language is available, but the kernel raised or its results are wrong. The message has
        the path of a report.
    """
    allowed = os.environ.get("FASTDIFF_GPU")
    if allowed and allowed not in LANGUAGES:
        raise UnknownName("FASTDIFF_GPU language", allowed, LANGUAGES)
    if allowed and allowed != language:
        return f"FASTDIFF_GPU={allowed}"
    return _first_use(operator, language, device)


@cache
def _first_use(operator: str, language: str, device: torch.device) -> str | None:
    from fastdiff.kernels import first_use  # it uses operators that import this module

    if (missing := STATUS[language]()) is not None:
        return missing
    if first_use.is_lost(device):
        return f"this process can use {device} no more, after an error of another kernel"
    try:
        found = first_use.verdict(operator, language, load(operator, language), device)
    except Exception as error:  # the errors of compilers and drivers have no narrower base class
        found = first_use.raised(operator, language, error, device)
    if found.mismatch is not None:
        warnings.warn(
            f"the {language} kernel {operator} is not used on {found.device}: {found.mismatch}; "
            f"please report it with {found.report}",
            KernelWarning,
            stacklevel=4,
        )
    return found.mismatch


def described(error: Exception) -> str:
    """Return an error of any kind on one line."""
    return f"{type(error).__name__}: {textwrap.shorten(str(error), 400, placeholder=' ...')}"
