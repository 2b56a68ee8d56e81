"""Softmax along an axis. `Attention` has its own, which keeps no scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from fastdiff.native.algorithms import Algorithm
from fastdiff.native.nodes.node import Node
from fastdiff.native.reading.results import operator
from fastdiff.native.views import Shape, View, inverse, memory_order

if TYPE_CHECKING:
    from fastdiff.native.reading.reader import Reader
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses


@dataclass(frozen=True)
class Softmax(Node):
    """``y = softmax(x)`` along the last axis; x and y are (rows, C)."""

    name: str
    x: View
    y: View

    method: ClassVar[str] = "softmax"

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        together = self.x.together and self.y.together
        return together and len(self.x.shape) == 2 and self.y.shape == self.x.shape

    def compute(self, memory: Memory) -> NDArray[Any]:
        x = memory.view(self.x)
        powers = np.exp(x - x.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        rows, channels = self.x.shape
        return {
            "x": (*memory.address(self.x), self.x.strides[0]),
            "y": (*memory.address(self.y), self.y.strides[0]),
            "images": memory.batch,
            "rows": rows,
            "channels": channels,
        }

    @property
    def overwritable(self) -> tuple[View, ...]:
        """Its input: a row is written after it has been read."""
        return (self.x,)


@operator("softmax.int")
def _softmax(r: Reader, x: View, axis: int, dtype: torch.dtype | None = None) -> View:
    if r.node.meta["val"].dtype != torch.float32:
        raise r.refuse(f"its output is {r.node.meta['val'].dtype}, expected float32")
    axis = r.axis(axis)
    order = [*(a for a in memory_order(x) if a != axis), axis]  # rows may be in any order
    last = x.permute(order)
    rows = r.rows(last)
    y = r.emit(Softmax(r.label("softmax"), rows, View.of("", rows.shape)))
    return r.reshape(y, last.shape).permute(inverse(order))


@operator("_softmax.default")
def _softmax_of(r: Reader, x: View, axis: int, half_to_float: bool) -> View:
    if half_to_float:
        raise r.refuse("it converts from float16")
    return _softmax(r, x, axis)
