"""The executor of a CUDA device: a whole step is one captured graph.

A graph holds the gather of the inputs, the denoiser, and the step kernel with its guidance, update
and noise, for one number of evaluations. What differs between steps, rows and solvers is data in
device memory: the host sends the batch's records, 40 bytes a row, and replays. Guidance is such
data too (the records say where both branches lie), so any mix of guided and unguided rows with the
same number of evaluations replays the same graph.

Batches are padded to a bucket: a record whose slot is -1 is touched by no kernel, and the denoiser
evaluates inputs that nobody reads. Warm-up and capture run on records that are all padding, so that
they change nothing.

The host is one step ahead. While the device takes step k + 1, the host reads the flags of step k;
rows that finished in k travel to the host on a second stream meanwhile. Everything that the host
shares with the device exists twice, as a `StepMemory`, and step k + 2 uses what step k has given
back.

Nothing here has been executed on a GPU yet: tests run it on a device that records operators and
replays them with the semantics of CUDA graphs.
"""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastdiff.backends import Denoiser
from fastdiff.engine.buffers import SlotBuffers, TableStore, lay_out
from fastdiff.engine.executor import Device, Event, Records, Slots, upload
from fastdiff.engine.graph_step import BucketStep, InFlight, StepMemory
from fastdiff.engine.micro_batches import best_batch
from fastdiff.engine.requests import Passes, Request
from fastdiff.networks import Network

_log = logging.getLogger(__name__)

_HISTORY_SLOTS = 1  # reserved: what most multistep solvers need


def bucket_of(evaluations: int) -> int:
    """Return the number of evaluations that a graph is captured for, at least `evaluations`.

    Only the three leading bits are kept: 1 to 8, then 10, 12, 14, 16, 20, ... Less than a fifth of
    a bucket is padding.
    """
    unit = 1 << max(0, (evaluations - 1).bit_length() - 3)
    return -(-evaluations // unit) * unit


def buckets_up_to(evaluations: int) -> list[int]:
    """Return all buckets that batches of up to `evaluations` evaluations use, ascending."""
    return sorted({bucket_of(count) for count in range(1, evaluations + 1)})


@dataclass(frozen=True)
class GraphStatus:
    """How steps of one bucket are run.

    Attributes
    ----------
    evaluations : int
        Size of the bucket.
    passes : Passes
        What its steps do besides.
    bytes : int
        Device memory of its buffers and its graph.
    eager_because : str or None
        Why it is not a graph; its steps run operator by operator on the device.
    """

    evaluations: int
    passes: Passes
    bytes: int
    eager_because: str | None


class GraphExecutor:
    """Replays one captured graph per step.

    Graphs are captured when a bucket is first needed, or by `prepare`. They are captured anew when
    state or tables have moved, or when `Denoiser.version` has changed. A denoiser that says
    `Denoiser.eager_because` is never captured.

    Parameters
    ----------
    network : Network
    denoiser : Denoiser
        On `device`.
    batch_seconds : mapping of int to float
        Measured time of a denoiser call by its number of rows.
    capacity : int
        Number of slots.
    device : Device
    """

    lag = 1

    def __init__(
        self,
        network: Network,
        denoiser: Denoiser,
        batch_seconds: Mapping[int, float],
        capacity: int,
        device: Device,
    ) -> None:
        self._capacity = capacity
        self._device, self._denoiser, self.batch_seconds = device, denoiser, batch_seconds
        self._compute, self._copies = device.stream(), device.stream()
        self._buffers = self._compute.run(
            lambda: SlotBuffers(
                capacity + 1,  # the last is nobody's: padding may write there
                network.sample_shape,
                denoiser.input_dtype,
                network.conditioning,
                device.memory,
                _HISTORY_SLOTS,
            )
        )
        self._tables = self._compute.run(lambda: TableStore(device.memory))
        largest = bucket_of(2 * capacity)
        self._frames = [StepMemory(device, largest) for _ in range(self.lag + 1)]
        self._steps: OrderedDict[tuple[int, Passes], BucketStep] = OrderedDict()  # oldest use first
        self._stamp = self._current_stamp()
        self._labels: Slots = np.zeros(0, np.int64)
        self._passes = Passes()
        self._step: BucketStep | None = None

    def status(self) -> list[GraphStatus]:
        """Return how the steps of each bucket in use are run, least recently used first."""
        return [
            GraphStatus(step.evaluations, step.passes, step.bytes, step.eager_because)
            for step in self._steps.values()
        ]

    def prepare(self, evaluations: int) -> None:
        """Capture all graphs of up to `evaluations` evaluations, as far as the slots allow.

        The largest comes first: the memory pool then holds what the smaller ones need.
        """
        self._drop_stale()
        for bucket in reversed(buckets_up_to(min(evaluations, 2 * self._capacity))):
            self._step_of(bucket, Passes())

    def replace(self, denoiser: Denoiser, batch_seconds: Mapping[int, float]) -> None:
        """Evaluate another denoiser, of the same dtypes and shapes: no row runs."""
        self._denoiser, self.batch_seconds = denoiser, batch_seconds
        self._steps.clear()
        self._step = None

    def admit(self, request: Request, slots: Slots, indices: Slots) -> int:
        """Set rows `indices` of `request` up in `slots`; return the index of its table's row 0."""
        self._compute.run(lambda: self._buffers.admit(request, slots, indices))
        return self._compute.run(lambda: self._tables.add(request.table))

    def trim(self) -> None:
        """Forget tables if there are many: no row runs."""
        self._tables.trim()

    def arrange(self, rows: Records, passes: Passes) -> None:
        """Choose the bucket of `rows`, which gets its cond and uncond."""
        source = lay_out(rows)
        # Padding is conditioned like slot 0, the first to be used: the network can take that.
        labels = np.zeros(bucket_of(len(source)), np.int64)
        labels[: len(source)] = rows["slot"][source]
        unconditional = labels[len(rows) : len(source)]
        unconditional[:] = self._buffers.unconditional[unconditional]
        self._labels, self._passes, self._step = labels, passes, None

    def launch(self, rows: Records, leaving: Slots | None) -> InFlight:
        """Enqueue a step of `rows`, as arranged; its result brings the state of slots `leaving`."""
        self._drop_stale()
        step = self._step = self._step or self._conditioned_step()
        compute, frame = self._compute, self._frames[0]
        try:
            compute.copy(step.rows, frame.write(rows, step.evaluations))
            if step.graph is not None:
                step.graph.replay()
            else:
                compute.run(step.run)
            compute.copy(frame.flags[: step.evaluations], step.flags)
            done, samples = compute.record(), None
            if leaving is not None:
                samples, done = self._send(frame, leaving)
        except BaseException:
            compute.synchronize()  # the frame is used again, and must not be in use
            raise
        self._frames.append(self._frames.pop(0))
        return InFlight(done, frame.flags[: len(rows)], samples)

    def read_denoised(self, slots: Slots) -> Tensor:
        """Return a copy of the last x0 estimates of `slots`, (k, C, ...) float32."""
        return self._compute.run(lambda: self._buffers.read_denoised(slots))

    def read_state(self, slots: Slots) -> Tensor:
        """Return a copy of x of `slots` after the last step, (k, C, ...) float32."""
        return self._compute.run(lambda: self._buffers.read_state(slots))

    def _send(self, frame: StepMemory, slots: Slots) -> tuple[Tensor, Event]:
        """Copy the state of `slots` to the host, while the next step runs."""
        compute, state = self._compute, self._buffers.state
        samples, staged = compute.run(lambda: frame.room_for(len(slots), state.shape[1]))
        where = compute.run(lambda: upload(slots, state.device))
        # Out of the way of whoever gets the slots next; that is quick, the way to the host is not.
        compute.enqueue(lambda: torch.index_select(state, 0, where, out=staged))
        self._copies.wait(compute.record())
        self._copies.copy(samples, staged)
        return samples.view(-1, *self._buffers.sample_shape), self._copies.record()

    def _conditioned_step(self) -> BucketStep:
        step = self._step_of(len(self._labels), self._passes)
        self._compute.run(lambda: step.condition(self._labels))
        return step

    def _step_of(self, bucket: int, passes: Passes) -> BucketStep:
        key = (bucket, passes)
        if key not in self._steps:
            self._steps[key] = self._build(bucket, passes)
        self._steps.move_to_end(key)
        self._evict()
        return self._steps[key]

    def _build(self, bucket: int, passes: Passes) -> BucketStep:
        """Allocate the buffers of a bucket and capture its graph, or note why that cannot be."""
        batch = best_batch(self.batch_seconds, bucket)
        step = self._compute.run(
            lambda: BucketStep(bucket, self._denoiser, batch, self._buffers, self._tables, passes)
        )
        reason = self._denoiser.eager_because
        if os.environ.get("FASTDIFF_GRAPHS") == "0":
            reason = "FASTDIFF_GRAPHS=0 asks for it"
        if reason is None:
            try:
                step.graph = self._device.capture(step.run, self._compute)
            except Exception as error:  # whatever it is, steps still run without a graph
                reason = f"capture failed: {error}"
        if step.graph is not None and step.bytes > self._device.graph_bytes:
            reason = f"it needs {step.bytes} bytes, graphs may hold {self._device.graph_bytes}"
            step.graph = None
        if reason is not None:
            _log.warning("steps of %d evaluations run without a graph: %s", bucket, reason)
            step.eager_because = reason
        return step

    def _evict(self) -> None:
        """Drop the least recently used buckets until all hold no more than the device allows."""
        held = sum(step.bytes for step in self._steps.values())
        while held > self._device.graph_bytes and len(self._steps) > 1:
            _, oldest = self._steps.popitem(last=False)
            held -= oldest.bytes

    def _current_stamp(self) -> tuple[Any, int, int]:
        version = self._denoiser.version
        return version, self._buffers.generation, self._tables.generation

    def _drop_stale(self) -> None:
        """Forget every graph if what they were captured from is no more."""
        stamp = self._current_stamp()
        if stamp != self._stamp:
            self._steps.clear()
            self._stamp, self._step = stamp, None
