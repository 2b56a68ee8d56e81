"""The element-wise operations of maps and activations: what each means, and what torch calls it.

The kernels have the same ones, by the same names, in ``csrc/network/operations.h``. A new operation
is a line there and one here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff import _native

Array = NDArray[Any]


@dataclass(frozen=True)
class Operation:
    """What an operation computes.

    Attributes
    ----------
    compute : callable
        The definition, on arrays of float64: one for each operand.
    torch : str or None
        ``aten.<torch>`` is this and nothing else; None where a reader of its own looks at the
        arguments (`arithmetic`).
    cheap : bool
        It takes no longer than to read an operand from memory, so it may be computed twice.
    neutral : float or None
        The right operand that leaves every left one as it is, bit for bit.
    commutes : bool
        The operands may be exchanged.
    """

    compute: Callable[..., Array]
    torch: str | None = None
    cheap: bool = False
    neutral: float | None = None
    commutes: bool = False


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)))


def _gelu_tanh(x: Array) -> Array:
    return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))


_erf = np.vectorize(math.erf, otypes=[np.float64])

OPERATIONS: dict[str, Operation] = {
    # -0.0, since -0.0 + 0.0 is 0.0
    "add": Operation(np.add, cheap=True, neutral=-0.0, commutes=True),
    "subtract": Operation(np.subtract, cheap=True, neutral=0.0),
    "multiply": Operation(np.multiply, cheap=True, neutral=1.0, commutes=True),
    "divide": Operation(np.divide, neutral=1.0),
    "maximum": Operation(np.maximum, cheap=True, neutral=-math.inf, commutes=True),
    "minimum": Operation(np.minimum, cheap=True, neutral=math.inf, commutes=True),
    "negate": Operation(np.negative, "neg", cheap=True),
    "exp": Operation(np.exp, "exp"),
    "log": Operation(np.log, "log"),
    "sqrt": Operation(np.sqrt, "sqrt"),
    "rsqrt": Operation(lambda x: 1 / np.sqrt(x), "rsqrt"),
    "sin": Operation(np.sin, "sin"),
    "cos": Operation(np.cos, "cos"),
    "tanh": Operation(np.tanh, "tanh"),
    "sigmoid": Operation(_sigmoid, "sigmoid"),
    "silu": Operation(lambda x: x * _sigmoid(x), "silu"),
    "gelu": Operation(lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2)))),
    "gelu_tanh": Operation(_gelu_tanh),
    "mish": Operation(lambda x: x * np.tanh(np.logaddexp(0, x)), "mish"),
    "round": Operation(np.rint, "round"),
}
_NAMES = _native.operation_names()
BINARY, UNARY = frozenset(_NAMES["binary"]), frozenset(_NAMES["unary"])
ACTIVATIONS = frozenset(_NAMES["activation"])
"""What convolutions and group norms apply before they store a result; ``"none"`` among them."""

if OPERATIONS.keys() != BINARY | UNARY:
    raise ImportError(
        "fastdiff's Python and its compiled kernels differ in their operations "
        f"{sorted(OPERATIONS.keys() ^ (BINARY | UNARY))}: build the package again"
    )


def activate(name: str, x: Array) -> Array:
    """Return an activation of an array of float64."""
    return x if name == "none" else OPERATIONS[name].compute(x)
