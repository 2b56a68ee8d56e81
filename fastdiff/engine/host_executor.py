"""The executor of this machine's own processor: launching a step takes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastdiff.backends import Denoiser
from fastdiff.engine.buffers import SlotBuffers, TableStore, lay_out, span
from fastdiff.engine.executor import Records, Slots, StepResult
from fastdiff.engine.fixed_calls import FixedCall, invariant_batch
from fastdiff.engine.micro_batches import best_batch, parts
from fastdiff.engine.requests import Passes, Request
from fastdiff.kernels.operators import host_fill_normal
from fastdiff.kernels.step import step
from fastdiff.networks import Network
from fastdiff.records import BATCH_ROW, TABLE_ROW


@dataclass
class _Layout:
    """How a batch becomes denoiser calls."""

    source: Slots  # (E,) for each evaluation, its row of the batch
    t: npt.NDArray[np.float32]  # (E,) filled anew for each step
    output: Tensor  # (E, m)
    calls: list[Callable[[], object]]
    passes: Passes


class HostExecutor:
    """Gathers inputs, evaluates the denoiser in micro-batches and calls the one step kernel.

    Parameters
    ----------
    network : Network
    denoiser : Denoiser
    batch_seconds : mapping of int to float
        Measured time of a denoiser call by its number of rows: a step is cut into calls of the
        size that is the fastest for its rows.
    capacity : int
        Number of slots.
    batch_invariant : bool
        Let a row's bits not know how many share its step: where the denoiser does not see to that
        itself, all calls have one size.
    """

    lag = 0
    _layout: _Layout  # set by `arrange`

    def __init__(
        self,
        network: Network,
        denoiser: Denoiser,
        batch_seconds: Mapping[int, float],
        capacity: int,
        batch_invariant: bool = False,
    ) -> None:
        self._network, self._batch_invariant = network, batch_invariant
        self.replace(denoiser, batch_seconds)
        self._buffers = SlotBuffers(
            capacity,
            network.sample_shape,
            denoiser.input_dtype,
            network.conditioning,
            fill_normal=lambda *args: host_fill_normal(
                *args, own_threads=self._denoiser.own_threads
            ),
        )
        self._tables = TableStore()
        self._output = torch.empty(0)

    def prepare(self, evaluations: int) -> None:
        """Do nothing: a first step costs what any step costs."""

    def replace(self, denoiser: Denoiser, batch_seconds: Mapping[int, float]) -> None:
        """Evaluate another denoiser, of the same dtypes and shapes: no row runs."""
        self._denoiser, self.batch_seconds = denoiser, batch_seconds
        self._fixed: FixedCall | None = None
        if self._batch_invariant and not denoiser.rows_are_independent:
            rows, seconds = invariant_batch(self._network, denoiser, batch_seconds)
            self._fixed = FixedCall(self._network, denoiser, rows)
            self.batch_seconds = {rows: seconds}

    def admit(self, request: Request, slots: Slots, indices: Slots) -> int:
        """Set rows `indices` of `request` up in `slots`; return the index of its table's row 0."""
        self._buffers.admit(request, slots, indices)
        return self._tables.add(request.table)

    def trim(self) -> None:
        """Forget tables if there are many: no row runs."""
        self._tables.trim()

    def arrange(self, rows: Records, passes: Passes) -> None:
        """Bind denoiser calls for the evaluations of `rows`, which gets its cond and uncond."""
        buffers, source = self._buffers, lay_out(rows)
        total = len(source)
        if len(self._output) < total:
            self._output = torch.empty(
                max(total, 2 * len(self._output)),
                self._denoiser.output_channels,
                *buffers.sample_shape[1:],
                dtype=self._denoiser.output_dtype,
            )
        output = self._output[:total]
        t = np.zeros(total, np.float32)
        slots = rows["slot"][source].astype(np.int64)
        labels = np.where(np.arange(total) < len(rows), slots, buffers.unconditional[slots])
        times = torch.from_numpy(t)
        calls = [
            call
            for part in parts(total, best_batch(self.batch_seconds, total))
            for call in self._calls(slots[part], labels[part], times[part], output[part])
        ]
        self._layout = _Layout(source, t, output.flatten(1), calls, passes)

    def launch(self, rows: Records, leaving: Slots | None) -> StepResult:
        """Take a step of `rows`, as arranged, and bring the state of slots `leaving`."""
        layout, buffers = self._layout, self._buffers
        layout.t[:] = self._tables.t[rows["table_row"][layout.source]]
        for call in layout.calls:
            call()
        table, own = self._tables.rows, rows
        if layout.passes.adapted:
            table, own = self._adapt(rows)
        flags = step(
            table=table,
            rows=own,
            state=buffers.state,
            output=layout.output,
            history=buffers.history,
            next_input=buffers.inputs,
            denoised=buffers.denoised if layout.passes.observed else None,
            own_threads=self._denoiser.own_threads,
        )
        if layout.passes.blended:
            tables = self._tables
            buffers.passes.blend(
                tables.records, tables.levels, _as_bytes(rows), buffers.state, buffers.inputs
            )
        return StepResult(flags, None if leaving is None else buffers.read_state(leaving))

    def read_denoised(self, slots: Slots) -> Tensor:
        """Return a copy of the last x0 estimates of `slots`, (k, C, ...) float32."""
        return self._buffers.read_denoised(slots)

    def read_state(self, slots: Slots) -> Tensor:
        """Return a copy of x of `slots` after the last step, (k, C, ...) float32."""
        return self._buffers.read_state(slots)

    def _adapt(self, rows: Records) -> tuple[Records, Records]:
        """Return the table and the records of a step that needs table rows of its own."""
        layout, buffers = self._layout, self._buffers
        table, own = buffers.passes.adapt(
            layout.passes, self._tables.records, _as_bytes(rows), buffers.state, layout.output
        )
        return _as_records(table, TABLE_ROW), _as_records(own, BATCH_ROW)

    def _calls(
        self, slots: Slots, labels: Slots, t: Tensor, output: Tensor
    ) -> list[Callable[[], object]]:
        """Return what evaluates `slots`, conditioned as `labels`, into `output`."""
        buffers, pick = self._buffers, torch.from_numpy(labels)
        conditioning = {k: v[pick].contiguous() for k, v in buffers.conditioning.items()}
        if self._fixed is not None:
            where = torch.from_numpy(slots)
            return [self._fixed.evaluating(buffers.inputs, where, t, conditioning, output)]
        x, gather = self._input(slots)
        call = self._denoiser.bind(x, t, conditioning, output)
        return [call] if gather is None else [gather, call]

    def _input(self, slots: Slots) -> tuple[Tensor, Callable[[], object] | None]:
        """Return the denoiser input of `slots`, and what refreshes it if it is a copy."""
        buffers = self._buffers
        side_by_side = span(slots)
        if side_by_side is not None:
            return buffers.inputs[side_by_side].view(-1, *buffers.sample_shape), None
        where = torch.from_numpy(slots)
        flat = torch.empty(len(slots), buffers.numel, dtype=buffers.inputs.dtype)
        gather = lambda: torch.index_select(buffers.inputs, 0, where, out=flat)  # noqa: E731
        return flat.view(-1, *buffers.sample_shape), gather


def _as_bytes(rows: Records) -> Tensor:
    """View records as (B, itemsize) uint8."""
    return torch.from_numpy(rows.view(np.uint8).reshape(len(rows), -1))


def _as_records(values: Tensor, dtype: np.dtype[np.void]) -> Records:
    """View (B, itemsize) uint8 as records."""
    return values.numpy().reshape(-1).view(dtype)
