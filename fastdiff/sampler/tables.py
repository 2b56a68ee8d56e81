"""The solver tables that a sampler made last."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence

from fastdiff.errors import InvalidArgument
from fastdiff.sampler.editing import Edit
from fastdiff.sampling import PackedTable, Schedule, Solver, get_solver
from fastdiff.sampling.checks import plain, whole_number

_MAX_TABLES = 64


class TableCache:
    """Makes packed tables for one schedule, and keeps the last few."""

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._tables: OrderedDict[object, PackedTable] = OrderedDict()
        self._lock = threading.Lock()

    def table(
        self,
        solver: str | Solver,
        *,
        steps: int | None = None,
        eta: float | None = None,
        timesteps: Sequence[float] | None = None,
        sigmas: Sequence[float] | None = None,
        compat: str | None = None,
        edit: Edit | None = None,
    ) -> PackedTable:
        """Return a table for arguments of `Sampler.sample`, without the steps that `edit` skips."""
        chosen = get_solver(solver, **({} if eta is None else {"eta": eta}))
        times, levels = _numbers("timesteps", timesteps), _numbers("sigmas", sigmas)
        given = times if times is not None else levels
        if steps is None and given is None:
            steps = min(50, self._schedule.num_train_timesteps)
        steps = plain(steps)
        total = len(given) if given is not None else whole_number("steps", steps, 1)
        start = edit.skipped(total) if edit is not None else 0
        key = (chosen, steps, times, levels, compat, start)
        with self._lock:
            if key not in self._tables:
                table = chosen.table(
                    self._schedule,
                    steps=steps,
                    timesteps=times,
                    sigmas=levels,
                    compat=compat,
                    start=start,
                )
                self._tables[key] = table.pack()
                if len(self._tables) > _MAX_TABLES:
                    self._tables.popitem(last=False)
            self._tables.move_to_end(key)
            return self._tables[key]


def _numbers(name: str, values: Sequence[float] | None) -> tuple[float, ...] | None:
    if values is None:
        return None
    try:
        return tuple(float(value) for value in values)
    except (TypeError, ValueError, OverflowError):
        raise InvalidArgument(f"{name}: expected a list of numbers, got {values!r}") from None
