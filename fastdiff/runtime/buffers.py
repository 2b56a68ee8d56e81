"""The engine's memory: per-slot state, and the solver tables that rows point into."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fastdiff.exporting import Conditioning
from fastdiff.kernels.noise import TAG_INITIAL, fill_normal
from fastdiff.records import TABLE_ROW
from fastdiff.runtime.requests import Request
from fastdiff.sampling import PackedTable

Slots = npt.NDArray[np.int64]


def span(slots: Slots) -> slice | None:
    """Return the slice that equals `slots`, or None when they do not lie side by side."""
    first = int(slots[0])
    return slice(first, first + len(slots)) if np.all(np.diff(slots) == 1) else None


class SlotBuffers:
    """State of every row that runs, indexed by slot.

    Memory is reserved for all slots at once and touched only as slots are used, so an idle
    capacity costs address space and nothing else.

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
        (S + 1, ...) each; index S holds the null value.
    """

    def __init__(
        self,
        capacity: int,
        sample_shape: tuple[int, int, int],
        input_dtype: torch.dtype,
        conditioning: Mapping[str, Conditioning],
    ) -> None:
        self.capacity = capacity
        self.sample_shape = sample_shape
        self.numel = sample_shape[0] * sample_shape[1] * sample_shape[2]
        self.state = torch.empty(capacity, self.numel)
        self.inputs = torch.empty(capacity, self.numel, dtype=input_dtype)
        self.history = torch.empty(0, capacity, self.numel)
        self.denoised: Tensor | None = None
        self.conditioning = {}
        for name, spec in conditioning.items():
            self.conditioning[name] = torch.empty(capacity + 1, *spec.shape, dtype=spec.dtype)
            if spec.null is not None:
                self.conditioning[name][capacity] = spec.null_value()

    def admit(self, request: Request, slots: Slots, indices: Slots) -> None:
        """Set rows `indices` of `request` up in `slots`: conditioning, x_T and the first input."""
        table = request.table
        if table.history_slots > len(self.history):
            grown = torch.empty(table.history_slots, self.capacity, self.numel)
            grown[: len(self.history)] = self.history
            self.history = grown
        if request.callback is not None and self.denoised is None:
            self.denoised = torch.empty(self.capacity, self.numel)
        where, pick = torch.from_numpy(slots), torch.from_numpy(indices)
        for name, buffer in self.conditioning.items():
            given = request.conditioning.get(name)
            buffer[where] = buffer[self.capacity].clone() if given is None else given[pick]
        side_by_side = span(slots)
        x = (
            self.state[side_by_side]
            if side_by_side is not None
            else torch.empty(len(slots), self.numel)
        )
        scale = table.init_noise_sigma
        if request.latents is not None:
            x.copy_(request.latents[pick].reshape(len(slots), self.numel).mul(scale))
        else:
            fill_normal(
                x,
                seeds=request.seeds[indices].tolist(),
                images=request.images[indices].tolist(),
                draw=0,
                tag=TAG_INITIAL,
                scale=scale,
            )
        if side_by_side is None:
            self.state[where] = x
        self.inputs[where] = x.mul(table.first_c_in).to(self.inputs.dtype)

    def read_state(self, slots: Slots) -> Tensor:
        """Return a copy of x of `slots`, (k, C, H, W)."""
        return self.state[torch.from_numpy(slots)].view(-1, *self.sample_shape)

    def read_denoised(self, slots: Slots) -> Tensor:
        """Return a copy of the last x0 estimates of `slots`, (k, C, H, W)."""
        if self.denoised is None:
            raise RuntimeError("no running request asked for x0 estimates")
        return self.denoised[torch.from_numpy(slots)].view(-1, *self.sample_shape)


class TableStore:
    """All solver tables in use, end to end in one array, as a kernel wants them.

    Attributes
    ----------
    rows : ndarray
        (R,) TABLE_ROW.
    t : ndarray
        (R,) float32: what the denoiser gets as time at each row.
    """

    _TRIM_ROWS = 1 << 16

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.rows = np.zeros(0, TABLE_ROW)
        self.t = np.zeros(0, np.float32)
        self._kept: dict[int, tuple[PackedTable, int]] = {}

    def add(self, table: PackedTable) -> int:
        """Return the index of `table`'s first row, appending it if it is new."""
        if id(table) not in self._kept:
            self._kept[id(table)] = (table, len(self.rows))
            self.rows = np.concatenate([self.rows, table.rows])
            self.t = np.ascontiguousarray(self.rows["t"])
        return self._kept[id(table)][1]

    def trim(self) -> None:
        """Forget every table if there are many; only for when no row runs."""
        if len(self.rows) > self._TRIM_ROWS:
            self._clear()
