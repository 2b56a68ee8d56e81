"""A step as a CUDA device takes it: static buffers, and what the host shares with the device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastdiff.backends import Denoiser
from fastdiff.engine.buffers import SlotBuffers, TableStore
from fastdiff.engine.executor import (
    CapturedGraph,
    Device,
    Event,
    Records,
    Slots,
    StepResult,
    upload,
)
from fastdiff.engine.micro_batches import parts
from fastdiff.engine.requests import Passes
from fastdiff.records import BATCH_ROW


class BucketStep:
    """A step of up to E evaluations: static buffers, and the work that uses them."""

    def __init__(
        self,
        evaluations: int,
        denoiser: Denoiser,
        batch: int,
        buffers: SlotBuffers,
        tables: TableStore,
        passes: Passes,
    ) -> None:
        self.evaluations, self.passes = evaluations, passes
        self.graph: CapturedGraph | None = None
        self.eager_because: str | None = None
        (_, *sizes), where = buffers.sample_shape, buffers.device
        self.rows = upload(_padding(evaluations), where)
        self.flags = torch.zeros(evaluations, dtype=torch.uint8, device=where)
        self.x = torch.zeros(
            evaluations, *buffers.sample_shape, dtype=buffers.inputs.dtype, device=where
        )
        self.t = torch.zeros(evaluations, dtype=torch.float32, device=where)
        self.output = torch.zeros(
            evaluations, denoiser.output_channels, *sizes,
            dtype=denoiser.output_dtype, device=where,
        )  # fmt: skip
        self.conditioning = {
            name: torch.zeros(evaluations, *values.shape[1:], dtype=values.dtype, device=where)
            for name, values in buffers.conditioning.items()
        }
        self._buffers, self._table, self._levels = buffers, tables.records, tables.levels
        self._calls = [
            denoiser.bind(
                self.x[part],
                self.t[part],
                {name: values[part] for name, values in self.conditioning.items()},
                self.output[part],
            )
            for part in parts(evaluations, batch)
        ]

    @property
    def bytes(self) -> int:
        """Device memory of the static buffers and the graph."""
        held = [self.rows, self.flags, self.x, self.t, self.output, *self.conditioning.values()]
        graph = self.graph.bytes if self.graph else 0
        return graph + sum(tensor.numel() * tensor.element_size() for tensor in held)

    def condition(self, labels: Slots) -> None:
        """Refresh the conditioning: evaluation e gets that of slot ``labels[e]``."""
        pick = upload(labels, self._buffers.device)
        for name, values in self.conditioning.items():
            torch.index_select(self._buffers.conditioning[name], 0, pick, out=values)

    def run(self) -> None:
        """Take the step of `rows`; the body of the graph."""
        slots, table, rows = self._buffers, self._table, self.rows
        torch.ops.fastdiff.gather(table, self.rows, slots.inputs, self.x.flatten(1), self.t)
        for call in self._calls:
            call()
        output = self.output.flatten(1)
        if self.passes.adapted:
            table, rows = slots.passes.adapt(self.passes, table, rows, slots.state, output)
        torch.ops.fastdiff.step(
            table,
            rows,
            slots.state,
            output,
            self.flags,
            slots.history if len(slots.history) else None,
            slots.inputs,
            slots.denoised if self.passes.observed else None,
        )
        if self.passes.blended:
            slots.passes.blend(self._table, self._levels, self.rows, slots.state, slots.inputs)


class StepMemory:
    """What the host shares with the device in one step: pinned memory, and finished images."""

    def __init__(self, device: Device, largest: int) -> None:
        self._device = device
        self._rows = device.pinned(largest, BATCH_ROW.itemsize, dtype=torch.uint8)
        self._records = self._rows.numpy().reshape(-1).view(BATCH_ROW)
        self.flags = device.pinned(largest, dtype=torch.uint8)
        self._staged = torch.empty(0, 0, dtype=torch.float32, device=device.memory)
        self._samples = device.pinned(0, 0, dtype=torch.float32)

    def write(self, rows: Records, bucket: int) -> Tensor:
        """Return `rows` with padding, (bucket, 40) uint8 pinned."""
        self._records[: len(rows)] = rows
        self._records["slot"][len(rows) : bucket] = -1
        return self._rows[:bucket]

    def room_for(self, rows: int, numel: int) -> tuple[Tensor, Tensor]:
        """Return memory for the images of `rows` rows: pinned and on the device, (rows, n)."""
        if len(self._staged) < rows:
            reserved = max(rows, 2 * len(self._staged))
            memory, dtype = self._device.memory, torch.float32
            self._staged = torch.empty(reserved, numel, dtype=dtype, device=memory)
            self._samples = self._device.pinned(reserved, numel, dtype=dtype)
        return self._samples[:rows], self._staged[:rows]


@dataclass(frozen=True)
class InFlight:
    """A launched step; its frame holds the result once `done` has happened."""

    done: Event
    flags: Tensor  # (B,) uint8
    samples: Tensor | None

    def wait(self) -> StepResult:
        """Wait for the device and return what it sent."""
        self.done.synchronize()
        return StepResult(self.flags.numpy(), self.samples)


def _padding(rows: int) -> npt.NDArray[np.uint8]:
    """Return records that no kernel touches, as (rows, 40) uint8."""
    records = np.zeros(rows, BATCH_ROW)
    records["slot"] = -1
    return records.view(np.uint8).reshape(rows, BATCH_ROW.itemsize)
