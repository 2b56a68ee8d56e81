"""Checks of numbers that users give. Each raises `InvalidArgument` with the name of the argument.

A check accepts Python's numbers and the scalars of NumPy and torch, and returns a Python number.
"""

from __future__ import annotations

import math
import operator
import os
from typing import Any

from fastdiff.errors import InvalidArgument


def plain(value: Any) -> Any:
    """Return the Python number that a scalar of NumPy or torch holds; other values unchanged."""
    is_scalar = getattr(value, "ndim", None) == 0 and hasattr(value, "item")
    return value.item() if is_scalar else value


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return `value` as an int.

    Raises
    ------
    InvalidArgument
        If it is not a whole number from `least` to `most`.
    """
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
    value = plain(value)
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if isinstance(value, bool) or number < least or (most is not None and number > most):
        raise InvalidArgument(f"{name} must be a whole number {bounds}, got {value!r}")
    return number


def positive_number(name: str, value: Any) -> float:
    """Return `value` as a float.

    Raises
    ------
    InvalidArgument
        If it is not a positive finite number.
    """
    value = plain(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not (0 < number < math.inf) or isinstance(value, (bool, str)):
        raise InvalidArgument(f"{name} must be a positive finite number, got {value!r}")
    return number


def check_number(name: str, value: Any, least: float, most: float) -> float:
    """Return `value` as a float.

    Raises
    ------
    InvalidArgument
        If it is not a number from `least` to `most`.
    """
    value = plain(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not (number and least <= value <= most):
        raise InvalidArgument(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")
    return float(value)


def check_flag(name: str, value: Any) -> None:
    """Refuse a value that is neither True nor False.

    Raises
    ------
    InvalidArgument
        The message names the option.
    """
    if not isinstance(plain(value), bool):
        raise InvalidArgument(f"{name} must be a bool, got {value!r}")


def require_memory(what: str, size_bytes: int) -> None:
    """Refuse an array that is larger than the memory of this machine, before it is allocated.

    Raises
    ------
    InvalidArgument
        The message gives both sizes.
    """
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size_bytes > there:
        raise InvalidArgument(
            f"{what} would take {size_bytes / 1e9:.3g} GB, and this machine has "
            f"{there / 1e9:.3g} GB of memory; ask for less at a time"
        )
