"""Programs of element-wise operations, and copies. What is read into them: `reading.arithmetic`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from fastdiff.native.algorithms import Algorithm
from fastdiff.native.nodes.node import Node
from fastdiff.native.operations import BINARY, OPERATIONS, UNARY
from fastdiff.native.views import Shape, View

if TYPE_CHECKING:
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses

MAP_AXES, MAP_INPUTS, MAP_STEPS = 4, 8, 24  # what the kernel takes, the image not counted

Step: TypeAlias = tuple[str, int, int, float]


@dataclass(frozen=True)
class Map(Node):
    """A program that is run element by element; without steps y is a copy of the only input.

    Attributes
    ----------
    inputs : tuple of View
        Of the shape of y.
    program : tuple of (op, a, b, constant)
        a and b are inputs, then results of steps, in order; the last step gives y.
    """

    name: str
    y: View
    inputs: tuple[View, ...]
    program: tuple[Step, ...] = ()

    method: ClassVar[str] = "map"

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        count = len(self.inputs)
        for position, (op, a, b, _) in enumerate(self.program):
            known = range(count + position)
            operands = {"constant": ()}.get(op, (a, b) if op in BINARY else (a,))
            if op not in {"constant", *UNARY, *BINARY} or any(i not in known for i in operands):
                return False
        copies = bool(self.program) or count == 1
        return copies and all(view.shape == self.y.shape for view in self.inputs)

    def compute(self, memory: Memory) -> NDArray[Any]:
        results = [memory.view(view) for view in self.inputs]
        for op, a, b, constant in self.program:
            if op == "constant":
                results.append(np.asarray(constant))
            elif op in BINARY:
                results.append(OPERATIONS[op].compute(results[a], results[b]))
            else:
                results.append(OPERATIONS[op].compute(results[a]))
        return results[-1]

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        return {
            "shape": [memory.batch, *self.y.shape],
            "inputs": [memory.strided(view) for view in self.inputs],
            "output": memory.strided(self.y),
            "program": self.program,
        }

    def parts(self) -> list[str]:
        return [op for op, *_ in self.program if op != "constant"] or ["copy"]

    @property
    def overwritable(self) -> tuple[View, ...]:
        """All operands."""
        return self.inputs
