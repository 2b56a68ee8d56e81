"""The executors' memory: per-slot state, and the solver tables that rows point into."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from fastdiff.engine.executor import Records, Slots, upload
from fastdiff.engine.pass_buffers import PassBuffers
from fastdiff.engine.requests import Request
from fastdiff.kernels import operators  # noqa: F401  registers torch.ops.fastdiff
from fastdiff.kernels.noise import TAG_INITIAL
from fastdiff.networks import Conditioning
from fastdiff.records import TABLE_ROW
from fastdiff.sampling import PackedTable

_CPU = torch.device("cpu")


def span(slots: Slots) -> slice | None:
    """Return the slice that equals `slots`, or None when they do not lie side by side."""
    first = int(slots[0])
    return slice(first, first + len(slots)) if np.all(np.diff(slots) == 1) else None


def lay_out(rows: Records) -> Slots:
    """Lay a batch out as evaluations: all conditional ones, then the unconditional.

    Sets `cond` and `uncond` of `rows`, (B,) BATCH_ROW; returns for each evaluation its row.
    """
    guided = np.flatnonzero(rows["guidance"] != 1)
    rows["cond"], rows["uncond"] = np.arange(len(rows)), -1
    rows["uncond"][guided] = len(rows) + np.arange(len(guided))
    return np.concatenate([np.arange(len(rows)), guided])


class SlotBuffers:
    """State of every row that runs, indexed by slot.

    Memory is reserved for all slots at once. On a host it is touched only as slots are used, so an
    idle capacity costs address space and nothing else.

    Parameters
    ----------
    fill_normal : callable
        The operator ``fastdiff::fill_normal``, or what computes the same.

    Attributes
    ----------
    state : Tensor
        (S, n) float32: x.
    inputs : Tensor
        (S, n) in the denoiser's dtype: the next evaluation's c_in x.
    history : Tensor
        (K, S, n) float32; K grows with the tables in use.
    denoised : Tensor or None
        (S, n) float32: the last x0 estimate, allocated when a callback first asks for it.
    conditioning : dict of str to Tensor
        (S + 1, ...) each; index S holds the null value. (2 S + 1, ...) once a request has brought
        values for its unconditional branch: that of slot i is at S + 1 + i.
    unconditional : ndarray
        (S,) int64: where in `conditioning` the unconditional branch of each slot is.
    passes : PassBuffers
    generation : int
        How often any of these has moved.
    """

    def __init__(
        self,
        capacity: int,
        sample_shape: tuple[int, ...],
        input_dtype: torch.dtype,
        conditioning: Mapping[str, Conditioning],
        device: torch.device = _CPU,
        history_slots: int = 0,
        fill_normal: Callable[..., None] = torch.ops.fastdiff.fill_normal,
    ) -> None:
        self.capacity, self.device, self._fill_normal = capacity, device, fill_normal
        self.sample_shape = sample_shape
        self.numel = math.prod(sample_shape)
        self.generation = 0
        self.state = self._empty(capacity)
        self.inputs = torch.empty(capacity, self.numel, dtype=input_dtype, device=device)
        self.history = self._empty(history_slots, capacity)
        self.denoised: Tensor | None = None
        self.passes = PassBuffers(capacity, self.numel, device)
        self.unconditional = np.full(capacity, capacity, np.int64)
        self.conditioning = {}
        for name, spec in conditioning.items():
            self.conditioning[name] = torch.empty(
                capacity + 1, *spec.shape, dtype=spec.dtype, device=device
            )
            if spec.null is not None:
                self.conditioning[name][capacity] = spec.null_value().to(device)

    def _empty(self, *shape: int) -> Tensor:
        return torch.empty(*shape, self.numel, dtype=torch.float32, device=self.device)

    def admit(self, request: Request, slots: Slots, indices: Slots) -> None:
        """Set rows `indices` of `request` up in `slots`: conditioning, x_T and the first input."""
        table = request.table
        self._make_room(request)
        where, pick = upload(slots, self.device), torch.from_numpy(indices)
        self._condition(request.conditioning, where, pick)
        self.unconditional[slots] = self.capacity
        if request.negative:
            self.unconditional[slots] += 1 + slots
            self._condition(request.negative, where + self.capacity + 1, pick)

        def fill_noise(out: Tensor, scale: float = 1.0) -> None:
            self._fill_noise(out, request, indices, scale)

        self.passes.admit(request, where, pick, fill_noise)
        side_by_side = span(slots)
        x = self.state[side_by_side] if side_by_side is not None else self._empty(len(slots))
        if (start := request.start) is None:
            fill_noise(x, table.init_noise_sigma)
        else:
            fill_noise(x, start.sigma)
            x += upload(start.images[pick].flatten(1).mul(start.alpha), self.device)
        if side_by_side is None:
            self.state[where] = x
        self.inputs[where] = x.mul(table.first_c_in).to(self.inputs.dtype)

    def _condition(self, given: Mapping[str, Tensor], where: Tensor, pick: Tensor) -> None:
        """Set the conditioning at `where` to values `pick` of `given`, or to the null value."""
        for name, buffer in self.conditioning.items():
            values = given.get(name)
            buffer[where] = (
                buffer[self.capacity].clone()
                if values is None
                else upload(values[pick], self.device)
            )

    def _fill_noise(self, out: Tensor, request: Request, indices: Slots, scale: float) -> None:
        """Fill `out`, (k, n), with `scale` times the initial noise of images `indices`."""
        if request.latents is not None:
            latents = request.latents[torch.from_numpy(indices)].flatten(1).mul(scale)
            out.copy_(upload(latents, self.device))
            return
        seeds, images = (
            upload(values[indices].view(np.int64), self.device)
            for values in (request.seeds, request.images)
        )
        self._fill_normal(out, seeds, images, 0, TAG_INITIAL, scale)

    def _make_room(self, request: Request) -> None:
        history_slots = request.table.history_slots
        if history_slots > len(self.history):
            grown = self._empty(history_slots, self.capacity)
            grown[: len(self.history)] = self.history
            self.history = grown
            self.generation += 1
        if request.callback is not None and self.denoised is None:
            self.denoised = self._empty(self.capacity)
        if request.negative and len(next(iter(self.conditioning.values()))) == self.capacity + 1:
            for name, old in self.conditioning.items():
                grown = torch.empty(
                    2 * self.capacity + 1, *old.shape[1:], dtype=old.dtype, device=self.device
                )
                grown[: self.capacity + 1] = old
                self.conditioning[name] = grown

    def read_state(self, slots: Slots) -> Tensor:
        """Return a copy of x of `slots` on the host, (k, C, ...)."""
        return self._read(self.state, slots)

    def read_denoised(self, slots: Slots) -> Tensor:
        """Return a copy of the last x0 estimates of `slots` on the host, (k, C, ...)."""
        if self.denoised is None:
            raise RuntimeError("no running request asked for x0 estimates")
        return self._read(self.denoised, slots)

    def _read(self, buffer: Tensor, slots: Slots) -> Tensor:
        return buffer[upload(slots, self.device)].cpu().view(-1, *self.sample_shape)


class TableStore:
    """All solver tables in use, end to end in one array, as a kernel wants them.

    Memory is reserved ahead and doubles when it is full.

    Attributes
    ----------
    records : Tensor
        (R, 96) uint8: TABLE_ROW records, in `device`'s memory.
    levels : Tensor
        (R, 2) float32: alpha and sigma of what is kept of an image when a row has been stepped.
        That is where the row ends, and after the last one the image itself, as in diffusers.
    generation : int
        How often `records` has moved.
    """

    _TRIM_ROWS = 1 << 16

    def __init__(self, device: torch.device = _CPU, capacity: int = 1 << 12) -> None:
        self.device, self.generation = device, 0
        self._reserve(capacity)
        self._clear()

    def _reserve(self, capacity: int) -> None:
        self.records = torch.zeros(
            capacity, TABLE_ROW.itemsize, dtype=torch.uint8, device=self.device
        )
        self.levels = torch.zeros(capacity, 2, dtype=torch.float32, device=self.device)
        if self.device.type == "cpu":
            #: (R,) TABLE_ROW and (R,) float32: the records and their times, for the host's kernel.
            self.rows = self.records.numpy().reshape(-1).view(TABLE_ROW)
            self.t = self.rows["t"]

    def _clear(self) -> None:
        self._used = 0
        self._kept: dict[int, tuple[PackedTable, int]] = {}

    def add(self, table: PackedTable) -> int:
        """Return the index of `table`'s first row, appending it if it is new."""
        if id(table) not in self._kept:
            first, end = self._used, self._used + len(table.rows)
            if end > len(self.records):
                full, levels = self.records, self.levels
                self._reserve(max(end, 2 * len(full)))
                self.records[: len(full)], self.levels[: len(full)] = full, levels[: len(full)]
                self.generation += 1
            packed = table.rows.copy().view(np.uint8).reshape(-1, TABLE_ROW.itemsize)
            self.records[first:end] = upload(packed, self.device)
            ends = np.concatenate([table.levels[1:-1], np.array([[1, 0]], np.float32)])
            self.levels[first:end] = upload(ends, self.device)
            self._kept[id(table)], self._used = (table, first), end
        return self._kept[id(table)][1]

    def trim(self) -> None:
        """Forget every table if there are many; only for when no row runs."""
        if self._used > self._TRIM_ROWS:
            self._clear()
