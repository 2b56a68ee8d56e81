"""The one sampling loop: rows of any request, solver and step share every denoiser call.

The engine is policy: who joins, who has finished, whose output is bad, who must hear of it. An
executor (`fastdiff.engine.executor`) owns the memory and takes the steps, on the host or on a GPU.
Scripts and servers are clients of the same engine.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from operator import or_

import numpy as np

from fastdiff.backends import Denoiser
from fastdiff.engine.batch import Batch, Share, Step, Tick, non_finite, shares_of
from fastdiff.engine.batcher import EVERYONE, Batcher, Batching, Row, Turn
from fastdiff.engine.cuda_device import CudaDevice
from fastdiff.engine.executor import Device, Executor, StepResult
from fastdiff.engine.graph_executor import GraphExecutor
from fastdiff.engine.host_executor import HostExecutor
from fastdiff.engine.requests import Callback, Request, StepInfo, Ticket
from fastdiff.errors import Cancelled, InvalidArgument, Unavailable
from fastdiff.modes import own_modes
from fastdiff.networks import Network
from fastdiff.records import BATCH_ROW

_STATE_BYTES = 1 << 30
_MAX_ROWS = 1024


class Engine:
    """Runs requests on one denoiser.

    Parameters
    ----------
    network : Network
        What is sampled.
    denoiser : Denoiser
        How it is evaluated. One whose ``device`` is a CUDA device is run there, by CUDA graphs.
    batch_seconds : mapping of int to float
        Measured time of a denoiser call by its number of rows: a step is cut into calls of the
        size that is the fastest for its rows.
    max_rows : int or None
        Rows that run at once; the default keeps the state within 1 GiB, 1024 rows at most.
    device : Device or None
        Runs the graphs, if it is not to be found from the denoiser.
    batching : Batching
        Which rows share a step, by the clock of `time.monotonic`.
    batch_invariant : bool
        Give an image the same bits in whatever company it runs (`fastdiff.engine.fixed_calls`).

    Attributes
    ----------
    executor : Executor
        What takes the steps.
    """

    def __init__(
        self,
        network: Network,
        denoiser: Denoiser,
        batch_seconds: Mapping[int, float],
        max_rows: int | None = None,
        device: Device | None = None,
        *,
        batching: Batching = EVERYONE,
        batch_invariant: bool = False,
    ) -> None:
        row_bytes = 12 * int(np.prod(network.sample_shape))
        capacity = max_rows or max(1, min(_MAX_ROWS, _STATE_BYTES // row_bytes))
        self.network, self._denoiser = network, denoiser
        device = device or _device_of(denoiser)
        if batch_invariant and device is not None:
            raise Unavailable(
                "batch_invariant=True is for backends on the host, this one is on a GPU"
            )
        self.executor: Executor = (
            HostExecutor(network, denoiser, batch_seconds, capacity, batch_invariant)
            if device is None
            else GraphExecutor(network, denoiser, batch_seconds, capacity, device)
        )
        self._batcher: Batcher[Ticket] = Batcher(capacity, batching)
        self._submitted: deque[tuple[Ticket, dict[str, float]]] = deque()
        self._first_rows = np.zeros(capacity, BATCH_ROW)  # of each slot, for its first step
        self._batch: Batch | None = None
        self._in_flight: deque[Step] = deque()
        self._lock = threading.Lock()

    def prepare(self, evaluations: int) -> None:
        """Do beforehand what the first steps of up to `evaluations` evaluations would wait for.

        On a GPU this captures the graphs. An image takes one evaluation per step, two if guided.
        """
        with own_modes(), self._lock:
            self.executor.prepare(evaluations)

    def submit(
        self,
        request: Request,
        *,
        arrival: float | None = None,
        patience: float = 0.0,
        deadline: float = math.inf,
    ) -> Ticket:
        """Queue `request`; `advance` or `tick` does the work.

        Parameters
        ----------
        request : Request
        arrival : float, optional
            When it came; now if left out.
        patience, deadline : float
            See `policies.Standing`.

        Raises
        ------
        InvalidArgument
            The model does not return what the solver needs.
        """
        channels = self.network.sample_shape[0]
        if request.table.needs_variance and self._denoiser.output_channels != 2 * channels:
            raise InvalidArgument(
                f"a learned variance needs a model that returns {2 * channels} channels, "
                f"this one returns {self._denoiser.output_channels}; "
                "use variance_type='fixed_small'"
            )
        with own_modes():
            ticket = Ticket(request, self.network.sample_shape)
        ticket.done = request.rows == 0
        if not ticket.done:
            arrival = time.monotonic() if arrival is None else arrival
            standing = {"arrival": arrival, "patience": patience, "deadline": deadline}
            self._submitted.append((ticket, standing))
        return ticket

    def advance(self, ticket: Ticket) -> None:
        """Take one step of everything that runs, unless `ticket` is done.

        Threads may call this at once for tickets of their own: one of them works at a time, and
        its step carries the rows of all.
        """
        with own_modes(), self._lock:
            if not ticket.done:
                self._admit()
                with contextlib.suppress(Exception):  # the tickets that it concerns hold it
                    self._tick()

    def tick(self) -> Tick | None:
        """Take one step of all rows whose turn it is; return None if there are none.

        Raises
        ------
        Exception
            What the model or the step raised. The requests that were in the step have failed with
            it; those that were not can go on.
        """
        with own_modes(), self._lock:
            self._admit()
            step = self._tick()
            return step.batch.tick() if step else None

    def cancel(self, ticket: Ticket) -> None:
        """Free the rows of `ticket`."""
        with self._lock:
            self._fail(ticket, Cancelled("the request was cancelled"))

    def replace(self, denoiser: Denoiser, batch_seconds: Mapping[int, float]) -> None:
        """Evaluate another denoiser from now on: of the same dtypes, shapes and device.

        Rows that have begun are finished with the old one first; rows that wait get the new one.
        """
        with own_modes(), self._lock:
            self._batcher.close()
            try:
                while self._batcher.holding or self._in_flight:
                    with contextlib.suppress(Exception):
                        self._tick()
            finally:
                self._batcher.open()
            self._denoiser = denoiser
            self.executor.replace(denoiser, batch_seconds)

    def _tick(self) -> Step | None:
        """Launch a step, and look at the results of those that are due."""
        turn = self._batcher.turn(time.monotonic())
        step = None
        try:
            if turn.rows:
                step = self._launch(turn)
        except BaseException as error:
            # The step may have been taken for some rows and not for others: none can go on.
            self._fail_all((row.job for row in turn.rows), error)
            raise
        # A callback sees its step before the next one, and the last results wait for nothing.
        left_for_later = self.executor.lag if step and not step.batch.passes.observed else 0
        while len(self._in_flight) > left_for_later:
            self._settle(self._in_flight.popleft())
        return step

    def _admit(self) -> None:
        """Let the batcher know of new requests."""
        while self._submitted:
            ticket, standing = self._submitted.popleft()
            if not ticket.done:
                request = ticket.request
                evaluations = np.where(request.guidance == 1, 1, 2).tolist()
                self._batcher.submit(ticket, request.steps, evaluations, **standing)

    def _set_up(self, joined: Sequence[Row[Ticket]]) -> None:
        """Give rows that take their first step their state."""
        if len(joined) == self._batcher.holding:
            self.executor.trim()
        for share in shares_of(joined):
            request, indices = share.ticket.request, share.indices
            slots = np.array([joined[position].slot for position in share.positions], np.int64)
            rows = np.zeros(len(slots), BATCH_ROW)
            rows["seed"], rows["image"] = request.seeds[indices], request.images[indices]
            rows["table_row"] = self.executor.admit(request, slots, indices)
            rows["slot"], rows["guidance"] = slots, request.guidance[indices]
            self._first_rows[slots] = rows

    def _make_batch(self, turn: Turn[Ticket]) -> Batch:
        self._batcher.settle()
        slots = np.array([row.slot for row in turn.rows], np.int64)
        left = np.array([row.steps_left for row in turn.rows], np.int64)
        total = np.array([row.job.request.steps for row in turn.rows], np.int64)
        rows, shares = self._first_rows[slots], shares_of(turn.rows)
        rows["draw"] = total - left
        rows["table_row"] += rows["draw"].astype(np.int32)
        until = left.copy()
        for share in shares:
            if (guided := share.ticket.request.guided) is not None:
                draws, positions = rows["draw"][share.positions], share.positions
                rows["guidance"][positions[~guided.on[draws]]] = 1
                until[positions] = guided.until[draws] - draws
        passes = reduce(or_, (share.ticket.request.passes for share in shares))
        self.executor.arrange(rows, passes)
        return Batch(turn, slots, rows, left, int(until.min()), shares, passes)

    def _launch(self, turn: Turn[Ticket]) -> Step:
        """Launch a step of the rows whose turn it is, and free the slots that end."""
        batch = self._batch
        if batch is None or batch.turn is not turn:
            self._set_up(turn.joined)
            batch = self._batch = self._make_batch(turn)
        elif batch.taken == batch.until:
            batch = self._batch = self._make_batch(turn)
        batch.taken += 1
        last = batch.taken == batch.until
        leaving = np.flatnonzero(batch.left == batch.taken) if last else _NO_SLOTS
        launched = self.executor.launch(batch.rows, batch.slots[leaving] if leaving.size else None)
        self._batcher.take_step()
        batch.rows["table_row"] += 1
        batch.rows["draw"] += 1
        step = Step(batch.taken, batch, leaving, launched)
        self._in_flight.append(step)
        return step

    def _settle(self, step: Step) -> None:
        """Wait for the result of a step, and act on it."""
        try:
            self._finish(step, step.launched.wait())
        except BaseException as error:
            # Nobody may wait for a result that was lost: whoever took this step or runs on fails.
            batches = [step.batch, self._batch or step.batch]
            self._fail_all((share.ticket for batch in batches for share in batch.shares), error)
            raise

    def _finish(self, step: Step, result: StepResult) -> None:
        """Fail, notify and deliver."""
        batch = step.batch
        bad = result.flags.astype(bool) if result.flags.any() else None
        for share in batch.shares:
            ticket = share.ticket
            ticket.completed += len(share.positions)
            if bad is not None and bad[share.positions].any():
                self._fail(ticket, non_finite(step, share, share.positions[bad[share.positions]]))
            elif ticket.request.callback is not None:
                self._notify(step, share, ticket.request.callback)
            if result.samples is not None and not ticket.done:
                ended = batch.left[share.positions] == step.number
                if ended.any():
                    places = np.searchsorted(step.leaving, share.positions[ended])
                    ticket.deliver(share.indices[ended].tolist(), result.samples[places])

    def _notify(self, step: Step, share: Share, callback: Callback) -> None:
        ticket, total = share.ticket, share.ticket.request.steps
        slots = step.batch.slots[share.positions]
        info = StepInfo(
            step=step.behind(share),
            total=total,
            images=share.indices.copy(),
            denoised=self.executor.read_denoised(slots),
            read_state=lambda: self.executor.read_state(slots),
        )
        try:
            callback(info)
        except Exception as error:
            self._fail(ticket, error)
        else:
            if info.cancelled:
                message = f"a callback stopped the request at step {info.step} of {total}"
                self._fail(ticket, Cancelled(message))

    def _fail(self, ticket: Ticket, error: BaseException) -> None:
        if not ticket.done:
            ticket.fail(error)
            self._batcher.withdraw(ticket)

    def _fail_all(self, tickets: Iterable[Ticket], error: BaseException) -> None:
        for ticket in dict.fromkeys(tickets):
            self._fail(ticket, error)


_NO_SLOTS = np.zeros(0, np.int64)


def _device_of(denoiser: Denoiser) -> Device | None:
    """Return the CUDA device that `denoiser` says it runs on, if it does."""
    device = denoiser.device
    return CudaDevice(device) if device.type == "cuda" else None
