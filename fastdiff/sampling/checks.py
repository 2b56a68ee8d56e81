"""Checks of numbers that users give, each with the error it raises."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from fastdiff.errors import InvalidArgument


def whole_number(name: str, value: Any, least: int, most: int | None = None) -> int:
    """Return `value` as an int.

    Raises
    ------
    InvalidArgument
        If it is not a whole number from `least` to `most`.
    """
    bounds = f"of at least {least}" if most is None else f"from {least} to {most}"
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
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not (0 < number < math.inf) or isinstance(value, (bool, str)):
        raise InvalidArgument(f"{name} must be a positive finite number, got {value!r}")
    return number


def check_number(name: str, value: Any, least: float, most: float) -> None:
    """Refuse an option that is not a number from `least` to `most`.

    Raises
    ------
    InvalidArgument
        Naming the option and its range.
    """
    number = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not (number and least <= value <= most):
        raise InvalidArgument(f"{name} must be a number from {least:g} to {most:g}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuse what is neither True nor False.

    Raises
    ------
    InvalidArgument
        Naming the option.
    """
    if not isinstance(value, (bool, np.bool_)):
        raise InvalidArgument(f"{name} must be a bool, got {value!r}")
