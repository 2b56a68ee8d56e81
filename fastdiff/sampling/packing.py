"""Assigns the logical history of a solver to the few slots that a kernel keeps.

Solvers are written with a history that shifts: H1 is the newest output, H2 the one before. Copying
images from slot to slot in every step would waste time. Two classical compiler passes avoid it:
liveness analysis, backwards, finds the slots that are still read, and slot assignment, forwards,
turns each pure copy into a new name for the same memory.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fastdiff.errors import TableError

MAX_SLOTS = 4
"""The number of history slots that a table row can address."""

Float64Array = npt.NDArray[np.float64]


def assign_slots(
    update: Float64Array, name: str = "table"
) -> tuple[Float64Array, Float64Array, npt.NDArray[np.int32]]:
    """Compile logical updates into rows with at most one history write each.

    Parameters
    ----------
    update : (n, k + 1, k + 4) float64
        Rows over (x, H1..Hk, D, m, z).
    name : str
        What to call the table in an error.

    Returns
    -------
    x_rows, h_rows : (n, 8) float64
        Coefficients of x' and of the slot that is written, over (x, P1..P4, D, m, z).
    destinations : (n,) int32
        The slot that is written, 1 to 4; 0 for none.

    Raises
    ------
    TableError
        If a row needs two writes, or more than 4 slots.
    """
    n = len(update)
    x_rows, h_rows = np.zeros((n, MAX_SLOTS + 4)), np.zeros((n, MAX_SLOTS + 4))
    destinations = np.zeros(n, np.int32)
    live = _live_after(update)
    place: dict[int, int] = {}  # logical slot -> physical slot, 1 to 4
    for i in range(n):
        x_rows[i] = _physical(update[i, 0], place)
        moved = {
            slot: source for slot in live[i] if (source := _moved_from(update[i, slot], place))
        }
        written = sorted(live[i] - moved.keys())
        if len(written) > 1:
            raise TableError(
                f"{name}: row {i} writes history slots {written}, a row can write one; express "
                "one of them through the others"
            )
        for slot in written:
            free = sorted(set(range(1, MAX_SLOTS + 1)) - set(moved.values()))
            if not free:
                raise TableError(f"{name}: row {i} needs more than {MAX_SLOTS} history slots")
            h_rows[i] = _physical(update[i, slot], place)
            destinations[i] = free[0]
            moved[slot] = free[0]
        place = moved
    return x_rows, h_rows, destinations


def _live_after(update: Float64Array) -> list[set[int]]:
    """Return for each row the history slots whose value after it is read later."""
    n, slots = len(update), update.shape[1] - 1
    live: list[set[int]] = [set() for _ in range(n)]
    for i in range(n - 1, 0, -1):
        needed = [0, *live[i]]
        live[i - 1] = {j for j in range(1, slots + 1) if np.any(update[i, needed, j] != 0)}
    return live


def _moved_from(row: Float64Array, place: dict[int, int]) -> int | None:
    """Return the physical slot that `row` copies, or None if it is not a pure copy."""
    (sources,) = np.nonzero(row)
    if len(sources) == 1 and row[sources[0]] == 1.0:
        return place.get(int(sources[0]))
    return None


def _physical(row: Float64Array, place: dict[int, int]) -> Float64Array:
    """Return the coefficients of a logical row over (x, P1..P4, D, m, z)."""
    result = np.zeros(MAX_SLOTS + 4)
    result[0], result[-3:] = row[0], row[-3:]
    for logical, physical in place.items():
        result[physical] += row[logical]
    return result
