"""The one sampling loop: rows of any request, solver and step share every denoiser call.

A tick gathers the inputs of the rows that run, evaluates the denoiser in micro-batches, and calls
the one fused step kernel for all of them. Scripts and servers are clients of the same engine.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastdiff.denoisers import Denoiser
from fastdiff.errors import Cancelled, InvalidArgument, NonFiniteOutput
from fastdiff.exporting import Network
from fastdiff.kernels.step import step
from fastdiff.records import BATCH_ROW
from fastdiff.runtime.batcher import Batcher
from fastdiff.runtime.buffers import SlotBuffers, Slots, TableStore, span
from fastdiff.runtime.layout import best_batch, parts
from fastdiff.runtime.requests import Callback, Request, StepInfo, Ticket

_STATE_BYTES = 1 << 30
_MAX_ROWS = 1024


@dataclass
class _Plan:
    """How the running rows become denoiser calls; valid until a row joins or leaves."""

    active: Slots  # (B,) slots
    source: Slots  # (E,) for each evaluation, its row in `active`
    t: npt.NDArray[np.float32]  # (E,) filled anew each tick
    output: Tensor  # (E, m)
    calls: list[Callable[[], object]]
    shares: list[tuple[Ticket, Slots, Slots]]
    # each ticket with the positions of its rows in `active` and their indices in the request
    observed: bool  # whether a callback wants the estimates of x0


class Engine:
    """Runs requests on one denoiser.

    Parameters
    ----------
    network : Network
        What is sampled.
    denoiser : Denoiser
        How it is evaluated.
    batch_seconds : mapping of int to float
        Measured time of a denoiser call by its number of rows: a tick is cut into calls of the size
        that is the fastest for its rows.
    max_rows : int or None
        Rows that run at once; the default keeps the state within 1 GiB, 1024 rows at most.
    """

    def __init__(
        self,
        network: Network,
        denoiser: Denoiser,
        batch_seconds: Mapping[int, float],
        max_rows: int | None = None,
    ) -> None:
        row_bytes = 12 * int(np.prod(network.sample_shape))
        capacity = max_rows or max(1, min(_MAX_ROWS, _STATE_BYTES // row_bytes))
        self.network, self._denoiser, self._batch_seconds = network, denoiser, batch_seconds
        self._buffers = SlotBuffers(
            capacity, network.sample_shape, denoiser.input_dtype, network.conditioning
        )
        self._tables = TableStore()
        self._batcher: Batcher[Ticket] = Batcher(capacity)
        self._rows = np.zeros(capacity, BATCH_ROW)
        self._left = np.zeros(capacity, np.int64)
        self._submitted: deque[Ticket] = deque()
        self._plan: _Plan | None = None
        self._output = torch.empty(0)
        self._lock = threading.Lock()

    def submit(self, request: Request) -> Ticket:
        """Queue `request`; `advance` does the work."""
        channels = self.network.sample_shape[0]
        if request.table.needs_variance and self._denoiser.output_channels != 2 * channels:
            raise InvalidArgument(
                f"a learned variance needs a model that returns {2 * channels} channels, "
                f"this one returns {self._denoiser.output_channels}; "
                "use variance_type='fixed_small'"
            )
        ticket = Ticket(request, self.network.sample_shape)
        ticket.done = request.rows == 0
        if not ticket.done:
            self._submitted.append(ticket)
        return ticket

    def advance(self, ticket: Ticket) -> None:
        """Take one step of everything that runs, unless `ticket` is done.

        Threads may call this at once for tickets of their own: one of them works at a time, and
        its step carries the rows of all.
        """
        with self._lock:
            if not ticket.done:
                self._tick()

    def cancel(self, ticket: Ticket) -> None:
        """Free the rows of `ticket`."""
        with self._lock:
            self._fail(ticket, Cancelled("the request was cancelled"))

    def _tick(self) -> None:
        try:
            self._admit()
            plan = self._plan = self._plan or self._make_plan()
            rows = self._rows[plan.active]
            np.take(self._tables.t, rows["table_row"][plan.source], out=plan.t)
            for call in plan.calls:
                call()
            bad = step(
                table=self._tables.rows,
                rows=rows,
                state=self._buffers.state,
                output=plan.output,
                history=self._buffers.history,
                next_input=self._buffers.inputs,
                denoised=self._buffers.denoised if plan.observed else None,
            )
        except BaseException as error:
            # The step may have been taken for some rows and not for others: none can go on.
            for ticket in {row.request: None for row in self._batcher.running}:
                self._fail(ticket, error)
            if not isinstance(error, Exception):
                raise
            return
        self._finish_step(plan, bad)

    def _admit(self) -> None:
        while self._submitted:
            ticket = self._submitted.popleft()
            if not ticket.done:
                self._batcher.submit(ticket, ticket.request.rows)
        joined = self._batcher.join()
        if not joined:
            return
        self._plan = None
        if len(joined) == len(self._batcher.running):
            self._tables.trim()
        by_ticket: dict[Ticket, list[tuple[int, int]]] = {}
        for row in joined:
            by_ticket.setdefault(row.request, []).append((row.slot, row.index))
        for ticket, pairs in by_ticket.items():
            request = ticket.request
            slots, indices = np.array(pairs, np.int64).T.copy()
            self._buffers.admit(request, slots, indices)
            self._left[slots] = request.steps
            rows = np.zeros(len(slots), BATCH_ROW)
            rows["seed"], rows["image"] = request.seeds[indices], request.images[indices]
            rows["table_row"] = self._tables.add(request.table)
            rows["slot"], rows["guidance"] = slots, request.guidance[indices]
            self._rows[slots] = rows

    def _make_plan(self) -> _Plan:
        """Lay the running rows out as evaluations: all conditional ones, then the unconditional."""
        buffers, running = self._buffers, self._batcher.running
        active = np.array([row.slot for row in running], np.int64)
        rows = self._rows[active]
        guided = np.flatnonzero(rows["guidance"] != 1)
        source = np.concatenate([np.arange(len(active)), guided])
        rows["cond"], rows["uncond"] = np.arange(len(active)), -1
        rows["uncond"][guided] = len(active) + np.arange(len(guided))
        self._rows[active] = rows

        total, shape = len(source), buffers.sample_shape
        if len(self._output) < total:
            channels = self._denoiser.output_channels
            self._output = torch.empty(
                max(total, 2 * len(self._output)), channels, *shape[1:],
                dtype=self._denoiser.output_dtype,
            )  # fmt: skip
        output = self._output[:total]
        t = np.zeros(total, np.float32)
        slots = active[source]
        labels = np.where(np.arange(total) < len(active), slots, buffers.capacity)
        calls: list[Callable[[], object]] = []
        for part in parts(total, best_batch(self._batch_seconds, total)):
            x, gather = self._input(slots[part])
            if gather is not None:
                calls.append(gather)
            pick = torch.from_numpy(labels[part])
            conditioning = {k: v[pick].contiguous() for k, v in buffers.conditioning.items()}
            calls.append(
                self._denoiser.bind(x, torch.from_numpy(t[part]), conditioning, output[part])
            )
        shares = self._shares()
        observed = any(ticket.request.callback is not None for ticket, *_ in shares)
        return _Plan(active, source, t, output.flatten(1), calls, shares, observed)

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

    def _shares(self) -> list[tuple[Ticket, Slots, Slots]]:
        by_ticket: dict[Ticket, list[tuple[int, int]]] = {}
        for position, row in enumerate(self._batcher.running):
            by_ticket.setdefault(row.request, []).append((position, row.index))
        return [
            (ticket, *np.array(pairs, np.int64).T.copy()) for ticket, pairs in by_ticket.items()
        ]

    def _finish_step(self, plan: _Plan, bad: npt.NDArray[np.uint8]) -> None:
        self._rows["table_row"][plan.active] += 1
        self._rows["draw"][plan.active] += 1
        self._left[plan.active] -= 1
        left = self._left[plan.active]
        any_bad, any_done = bool(bad.any()), not left.all()
        for ticket, positions, indices in plan.shares:
            ticket.completed += len(positions)
            if any_bad and bad[positions].any():
                self._fail(ticket, self._non_finite(plan, bad, ticket, positions, indices))
                continue
            if ticket.request.callback is not None:
                slots = plan.active[positions]
                self._notify(ticket, ticket.request.callback, slots, indices)
            if any_done and not ticket.done:
                self._deliver(ticket, plan.active[positions], left[positions] == 0, indices)

    def _notify(self, ticket: Ticket, callback: Callback, slots: Slots, indices: Slots) -> None:
        total = ticket.request.steps
        info = StepInfo(
            step=total - int(self._left[slots].max()),
            total=total,
            images=indices.copy(),
            denoised=self._buffers.read_denoised(slots),
        )
        try:
            callback(info)
        except Exception as error:
            self._fail(ticket, error)
        else:
            if info.cancelled:
                message = f"a callback stopped the request at step {info.step} of {total}"
                self._fail(ticket, Cancelled(message))

    def _deliver(
        self,
        ticket: Ticket,
        slots: Slots,
        done: npt.NDArray[np.bool_],
        indices: Slots,
    ) -> None:
        if not done.any():
            return
        finished = slots[done]
        ticket.deliver(indices[done].tolist(), self._buffers.read_state(finished))
        self._batcher.leave(finished.tolist())
        self._plan = None

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        if not ticket.done:
            ticket.fail(error)
            self._batcher.withdraw(ticket)
            self._plan = None

    def _non_finite(
        self,
        plan: _Plan,
        bad: npt.NDArray[np.uint8],
        ticket: Ticket,
        positions: Slots,
        indices: Slots,
    ) -> NonFiniteOutput:
        first = int(np.flatnonzero(bad[positions])[0])
        slot = plan.active[positions[first]]
        total = ticket.request.steps
        row = int(self._rows["table_row"][slot]) - 1
        done = total - int(self._left[slot]) - 1
        return NonFiniteOutput(done, total, int(indices[first]), float(self._tables.t[row]))
