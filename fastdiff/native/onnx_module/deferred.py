"""Values that are not computed yet: the next operators may make one call of several.

ONNX writes group norms, attention, SiLU and GELU as chains of operators, where backends have one
kernel. Each link of such a chain is a class here, which the next operator looks for; whatever else
reads it gets its `value`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Deferred(ABC):
    """A value that can be computed at any time.

    Attributes
    ----------
    within : callable or None
        Computes it on behalf of the operator that wrote it, whose name a tracer then sees.
    """

    within: Callable[[Deferred], Tensor] | None = field(default=None, kw_only=True, compare=False)

    @cached_property
    def value(self) -> Tensor:
        """The value, computed once."""
        return self.compute() if self.within is None else self.within(self)

    @abstractmethod
    def compute(self) -> Tensor:
        """Compute it."""


@dataclass(frozen=True)
class Regrouped(Deferred):
    """(B, G, ...) of the groups of channels of x (B, C, ...)."""

    x: Tensor
    groups: int

    def compute(self) -> Tensor:
        return self.x.reshape(self.x.shape[0], self.groups, -1)


@dataclass(frozen=True)
class GroupNormed(Deferred):
    """x (B, C, ...) normalised by groups; ``apart``: still as (B, G, ...)."""

    x: Tensor
    groups: int
    epsilon: float
    weight: Tensor | None = None
    bias: Tensor | None = None
    apart: bool = False

    def compute(self) -> Tensor:
        y = functional.group_norm(self.x, self.groups, self.weight, self.bias, self.epsilon)
        return Regrouped(y, self.groups).value if self.apart else y

    def scaled(self, weight: Tensor) -> GroupNormed | None:
        """Take a factor of each channel along, if one can be taken."""
        if self.apart or self.weight is not None or self.bias is not None:
            return None
        vector = self._per_channel(weight)
        return None if vector is None else replace(self, weight=vector, within=None)

    def shifted(self, bias: Tensor) -> GroupNormed | None:
        """Take a summand of each channel along, if one can be taken."""
        vector = None if self.apart or self.bias is not None else self._per_channel(bias)
        return None if vector is None else replace(self, bias=vector)

    def _per_channel(self, constant: Tensor) -> Tensor | None:
        shape = tuple(constant.shape)
        expected = (int(self.x.shape[1]), *[1] * (self.x.ndim - 2))
        return constant.reshape(-1) if shape in {expected, (1, *expected)} else None


@dataclass(frozen=True)
class RowMean(Deferred):
    """Mean of x (..., C) along its last axis, (..., 1)."""

    x: Tensor

    def compute(self) -> Tensor:
        return self.x.mean(-1, keepdim=True)


@dataclass(frozen=True)
class Centred(Deferred):
    """x - mean."""

    x: Tensor

    def compute(self) -> Tensor:
        return self.x - RowMean(self.x).value


@dataclass(frozen=True)
class CentredSquare(Deferred):
    """(x - mean)^2."""

    x: Tensor

    def compute(self) -> Tensor:
        return Centred(self.x).value ** 2


@dataclass(frozen=True)
class RowVariance(Deferred):
    """Mean of (x - mean)^2, and a number added to it."""

    x: Tensor
    epsilon: float = 0.0

    def compute(self) -> Tensor:
        return RowMean(CentredSquare(self.x).value).value + self.epsilon


@dataclass(frozen=True)
class RowDeviation(Deferred):
    """sqrt(variance + epsilon)."""

    x: Tensor
    epsilon: float

    def compute(self) -> Tensor:
        return RowVariance(self.x, self.epsilon).value.sqrt()


@dataclass(frozen=True)
class LayerNormed(Deferred):
    """(x - mean) / sqrt(variance + epsilon), scaled."""

    x: Tensor
    epsilon: float
    weight: Tensor | None = None

    def compute(self) -> Tensor:
        return self._with(None)

    def scaled(self, weight: Tensor) -> LayerNormed | None:
        """Take factors (C,) along, if they can be taken."""
        fits = self.weight is None and tuple(weight.shape) == (self.x.shape[-1],)
        return replace(self, weight=weight, within=None) if fits else None

    def shifted(self, bias: Tensor) -> Tensor | None:
        """Return the sum with a vector (C,), if it is one."""
        return self._with(bias) if tuple(bias.shape) == (self.x.shape[-1],) else None

    def _with(self, bias: Tensor | None) -> Tensor:
        shape = (int(self.x.shape[-1]),)
        return functional.layer_norm(self.x, shape, self.weight, bias, self.epsilon)


@dataclass(frozen=True)
class MatrixProduct(Deferred):
    """x (..., K) times a constant matrix (K, N)."""

    x: Tensor
    matrix: Tensor

    def compute(self) -> Tensor:
        return functional.linear(self.x, self.matrix.t())

    def shifted(self, bias: Tensor) -> Tensor | None:
        """Return the sum with a vector (N,), if it is one."""
        if tuple(bias.shape) != (int(self.matrix.shape[1]),):
            return None
        return functional.linear(self.x, self.matrix.t(), bias)


@dataclass(frozen=True)
class Scores(Deferred):
    """scale * q k for q (..., tokens, depth) and k (..., depth, keys)."""

    q: Tensor
    k: Tensor
    scale: float = 1.0

    @property
    def shape(self) -> tuple[int, ...]:
        """(..., tokens, keys)."""
        return (*self.q.shape[:-1], self.k.shape[-1])

    def compute(self) -> Tensor:
        scores = self.q @ self.k
        return scores if self.scale == 1 else scores * self.scale


@dataclass(frozen=True)
class Probabilities(Deferred):
    """Softmax of scores along the keys."""

    scores: Scores

    def compute(self) -> Tensor:
        return torch.softmax(self.scores.value, -1)

    def attend(self, v: Tensor) -> Tensor:
        """Return the product with values (..., keys, channels)."""
        q, k = self.scores.q, self.scores.k.transpose(-1, -2)
        return functional.scaled_dot_product_attention(q, k, v, scale=self.scores.scale)


@dataclass(frozen=True)
class Filled(Deferred):
    """One number, as often as a shape says that is open."""

    shape: tuple[int, ...]
    number: float
    dtype: torch.dtype

    def compute(self) -> Tensor:
        return torch.full(self.shape, self.number, dtype=self.dtype)


@dataclass(frozen=True)
class Rounded(Deferred):
    """x rounded to whole numbers, in float32."""

    x: Tensor

    def compute(self) -> Tensor:
        return torch.round(self.x)


@dataclass(frozen=True)
class Whole(Deferred):
    """The integers in x, which is float32: times, which a network computes with as floats."""

    x: Tensor

    def compute(self) -> Tensor:
        return self.x.to(torch.int64)


@dataclass(frozen=True)
class Gate(Deferred):
    """sigmoid(x), by which x may be multiplied: SiLU."""

    x: Tensor

    def compute(self) -> Tensor:
        return torch.sigmoid(self.x)


@dataclass(frozen=True)
class Halved(Deferred):
    """x / sqrt(2), the inside of a GELU."""

    x: Tensor

    def compute(self) -> Tensor:
        return self.x * math.sqrt(0.5)


@dataclass(frozen=True)
class NormalShare(Deferred):
    """erf(x / sqrt(2)) + offset; with 1, twice the share of a normal distribution below x."""

    x: Tensor
    offset: float = 0.0

    def compute(self) -> Tensor:
        return torch.erf(Halved(self.x).value) + self.offset


@dataclass(frozen=True)
class TwiceGelu(Deferred):
    """x (1 + erf(x / sqrt(2)))."""

    x: Tensor

    def compute(self) -> Tensor:
        return 2 * functional.gelu(self.x)
