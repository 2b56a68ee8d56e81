"""What a plan computes, by its definition: NumPy in float64, plain and slow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.native.plan import Plan
from fastdiff.native.views import View

Array = NDArray[Any]


def run_reference(plan: Plan, inputs: Mapping[str, Array], batch: int) -> Array:
    """Return the output of `plan` in float64.

    Parameters
    ----------
    plan : Plan
    inputs : mapping of str to array
        (B, ...) each, by the names of the plan's inputs.
    batch : int
        B.

    Returns
    -------
    array, (B, elements of one output)
    """
    return Memory(plan, inputs, batch).run()


class Memory:
    """Every buffer as (B, size); what nothing has written is NaN."""

    def __init__(self, plan: Plan, inputs: Mapping[str, Array], batch: int) -> None:
        self.plan, self.batch = plan, batch
        arena = np.full(plan.arena_floats * batch, np.nan)
        self.buffers: dict[str, Array] = {}
        for name, buffer in plan.buffers.items():
            if buffer.kind == "arena":
                begin = buffer.offset * batch
                memory = arena[begin : begin + buffer.size * batch]
            elif buffer.kind == "output":
                memory = np.full(buffer.size * batch, np.nan)
            elif buffer.kind == "weight":
                weight = plan.weights[name].astype(np.float64).reshape(1, -1)
                memory = np.repeat(weight, batch, axis=0)
            else:
                kind = np.int64 if buffer.kind == "labels" else np.float64
                memory = np.array(inputs[name], dtype=kind)
            self.buffers[name] = memory.reshape(batch, buffer.size)

    def run(self) -> Array:
        """Compute every node in order and return the output."""
        with np.errstate(all="ignore"):  # infinities and NaN are results like others
            for node in self.plan.nodes:
                self.view(node.y)[...] = node.compute(self)
        return self.buffers["output"]

    def view(self, view: View) -> Array:
        """Return (B, ...) elements, in place."""
        memory = self.buffers[view.buffer]
        step = memory.itemsize
        strides = (memory.strides[0], *(step * n for n in view.strides))
        return np.lib.stride_tricks.as_strided(
            memory[:, view.offset :], (self.batch, *view.shape), strides
        )

    def weight(self, name: str | None, absent: float = 0.0) -> Array:
        """Return a weight, or the number that stands for one that is absent."""
        return np.asarray(absent) if name is None else self.plan.weights[name].astype(np.float64)
