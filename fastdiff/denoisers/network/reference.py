"""What a plan computes, by its definition: NumPy in float64, plain and slow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastdiff.denoisers.network.nodes import Attention, Conv, Gather, GroupNorm, LayerNorm, Map
from fastdiff.denoisers.network.operations import OPERATIONS, activate
from fastdiff.denoisers.network.plan import Plan
from fastdiff.denoisers.network.views import View

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
    return _Memory(plan, inputs, batch).run()


class _Memory:
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
        with np.errstate(all="ignore"):  # infinities and NaN are results like others
            for node in self.plan.nodes:
                self.view(node.y)[...] = _COMPUTE[type(node)](self, node)
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
        return np.asarray(absent) if name is None else self.plan.weights[name].astype(np.float64)


def _conv(memory: _Memory, node: Conv) -> Array:
    x = memory.view(node.x)
    if node.upsample:
        x = x.repeat(2, axis=1).repeat(2, axis=2)
    weights = memory.weight(node.weights)
    height, width = node.y.shape[:2]
    top, left = node.padding
    (down, across), step = node.kernel, node.stride
    bottom = max((height - 1) * step + down - top - x.shape[1], 0)
    right = max((width - 1) * step + across - left - x.shape[2], 0)
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    total = np.zeros((memory.batch, *node.y.shape))
    for i in range(down):
        for j in range(across):
            rows = slice(i, i + (height - 1) * step + 1, step)
            columns = slice(j, j + (width - 1) * step + 1, step)
            total += x[:, rows, columns] @ weights[:, :, i, j].T
    total += memory.weight(node.bias)
    if node.shift is not None:
        total += memory.view(node.shift)[:, None, None]
    total = activate(node.activation, total)
    if node.scale is not None:
        total *= memory.view(node.scale)[:, None, None]
    return total if node.residual is None else total + memory.view(node.residual)


def _group_norm(memory: _Memory, node: GroupNorm) -> Array:
    x = memory.view(node.x)
    groups = x.reshape(*x.shape[:2], node.groups, -1)
    mean = groups.mean(axis=(1, 3), keepdims=True)
    variance = groups.var(axis=(1, 3), keepdims=True)
    y = ((groups - mean) / np.sqrt(variance + node.epsilon)).reshape(x.shape)
    y = y * memory.weight(node.gamma, 1.0) + memory.weight(node.beta)
    return activate(node.activation, y)


def _layer_norm(memory: _Memory, node: LayerNorm) -> Array:
    x = memory.view(node.x)
    x = x - x.mean(axis=-1, keepdims=True) if node.centred else x
    y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + node.epsilon)
    y = y * memory.weight(node.gamma, 1.0) + memory.weight(node.beta)
    if node.scale is not None:
        y = y * (1 + memory.view(node.scale)[:, None])
    return np.asarray(y if node.shift is None else y + memory.view(node.shift)[:, None])


def _attention(memory: _Memory, node: Attention) -> Array:
    q, k, v = (memory.view(view) for view in (node.q, node.k, node.v))
    scores = q @ np.swapaxes(k, -1, -2) * node.scale
    top = scores.max(axis=-1, keepdims=True, initial=np.finfo(np.float64).min)
    shares = np.exp(scores - top)
    # As in torch, all shares are 0 where all scores are -infinity; else their sum is 1 or more.
    return np.asarray(shares / np.maximum(shares.sum(axis=-1, keepdims=True), 0.5) @ v)


def _map(memory: _Memory, node: Map) -> Array:
    results: list[Array] = [memory.view(view) for view in node.inputs]
    for op, a, b, constant in node.program:
        if op == "constant":
            results.append(np.asarray(constant))
        elif op in {"add", "subtract", "multiply", "divide", "maximum", "minimum"}:
            results.append(OPERATIONS[op].compute(results[a], results[b]))
        else:
            results.append(OPERATIONS[op].compute(results[a]))
    return results[-1]


def _gather(memory: _Memory, node: Gather) -> Array:
    return np.asarray(memory.weight(node.table)[memory.view(node.labels)])


_COMPUTE: dict[type, Callable[[_Memory, Any], Array]] = {
    Conv: _conv,
    GroupNorm: _group_norm,
    LayerNorm: _layer_norm,
    Attention: _attention,
    Map: _map,
    Gather: _gather,
}
