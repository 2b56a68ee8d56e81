"""Rows of a table by their labels, as an embedding has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fastdiff.native.algorithms import DIRECT, HALVES, Algorithm
from fastdiff.native.nodes.node import Node, is_vector
from fastdiff.native.reading.results import operator
from fastdiff.native.views import Shape, View

if TYPE_CHECKING:
    from fastdiff.native.reading.reader import Reader
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses


@dataclass(frozen=True)
class Gather(Node):
    """``y = table[label]``: one int64 label for each image, y is (C,)."""

    name: str
    label: View
    table: str
    y: View

    method: ClassVar[str] = "gather"
    weight_fields: ClassVar[tuple[str, ...]] = ("table",)
    algorithms: ClassVar[tuple[str, ...]] = (DIRECT, HALVES)

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        return len(shapes[self.table]) == 2 and is_vector(self.y, shapes[self.table][1])

    def compute(self, memory: Memory) -> NDArray[Any]:
        return np.asarray(memory.weight(self.table)[memory.view(self.label)])

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        rows, channels = memory.plan.shapes[self.table]
        halves = choice.algorithm == HALVES
        return {
            "labels": memory.address(self.label),
            "table": memory.weight(self.halves_name() if halves else self.table),
            "rows": rows,
            "channels": channels,
            "y": memory.address(self.y),
            "images": memory.batch,
            "halves": halves,
        }

    def parts(self) -> list[str]:
        return [self.table]

    @property
    def labels(self) -> tuple[View, ...]:
        """The label."""
        return (self.label,)

    def halves_name(self) -> str:
        """Return what its table is called in bfloat16."""
        return f"{self.table} {HALVES}"


@operator("embedding.default")
def _embedding(
    r: Reader,
    table: Tensor,
    labels: View,
    padding_idx: int = -1,  # as the two below: for gradients alone
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> View:
    if labels.numel != 1:
        raise r.refuse(f"expected one label for an image, got {labels.shape}")
    rows = labels.reshape(())
    if rows is None:
        raise r.refuse()
    y = r.emit(Gather(r.scope(), rows, r.weight(table), View.of("", (int(table.shape[1]),))))
    return r.reshape(y, (*labels.shape, int(table.shape[1])))
