"""One fused solver step over a batch: guidance, prediction, clipping, update, noise and cast.

``docs/contracts.md`` defines the arithmetic and the two records. Rows are independent: each has its
own table row, state slot, seed and guidance. ``reference`` is the same function in plain NumPy.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.errors import InvalidDtype
from fastdiff.kernels.arrays import Array, to_native
from fastdiff.records import BATCH_ROW, TABLE_ROW

__all__ = ["step"]

# Dtypes that were accepted before, by identity. Comparing structured dtypes takes a microsecond.
_accepted: dict[tuple[str, int], np.dtype[np.void]] = {}


def step(
    *,
    table: NDArray[np.void],
    rows: NDArray[np.void],
    state: Array,
    output: Array,
    history: Array | None = None,
    next_input: Array | None = None,
    denoised: Array | None = None,
    own_threads: bool = False,
) -> NDArray[np.uint8]:
    """Take one solver step of each row of a batch, on as many threads as torch uses.

    Arrays are of torch or NumPy, contiguous and in CPU memory. Arrays that are written must not
    share memory with each other or with ``output``.

    Parameters
    ----------
    table : ndarray, (R,) of TABLE_ROW
        The rows of solver tables.
    rows : ndarray, (B,) of BATCH_ROW
        The batch; no two rows have the same slot.
    state : (S, n) float32
        x of each slot, replaced by x' for the slots of the batch.
    output : (E, m) float32, bfloat16 or float16
        What the denoiser returned: m >= n, and m >= 2n where a learned noise scale is used.
    history : (K, S, n) float32, optional
        History slot j of the table is ``history[j - 1]``; K is at most 4. Updated in place; slots
        whose coefficients are 0 are not read.
    next_input : (S, n) float32, bfloat16 or float16, optional
        Gets c_in_next x'.
    denoised : (S, n) float32, optional
        Gets D.
    own_threads : bool
        Use the threads that plans of networks run on instead of torch's (csrc/cpu/thread_pool.h):
        right where such a plan was what ran last.

    Returns
    -------
    ndarray, (B,) uint8
        Not 0 if an m, v or x' of the row is not finite. The state of the row is updated anyway.

    Raises
    ------
    InvalidArgument
        If an index of a record is out of range, two rows have one slot, arrays share memory, or an
        array is read-only or not contiguous; `InvalidShape` or `InvalidDtype` if one does not fit.
        Nothing has been written then.
    """
    _check_records("table", table, TABLE_ROW)
    _check_records("rows", rows, BATCH_ROW)
    return _native.step(
        table,
        rows,
        to_native(state),
        to_native(output),
        None if history is None else to_native(history),
        None if next_input is None else to_native(next_input),
        None if denoised is None else to_native(denoised),
        torch.get_num_threads(),
        own_threads,
    )


def _check_records(name: str, records: NDArray[np.void], expected: np.dtype[np.void]) -> None:
    if not isinstance(records, np.ndarray):
        raise InvalidDtype(
            f"{name}: expected a NumPy array of records, got {type(records).__name__}"
        )
    if (name, id(records.dtype)) in _accepted:
        return
    if records.dtype != expected:
        raise InvalidDtype(
            f"{name}: expected records of dtype {expected.descr} (docs/contracts.md), "
            f"got {records.dtype}"
        )
    _accepted[name, id(records.dtype)] = records.dtype
