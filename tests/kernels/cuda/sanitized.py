"""Run the CUDA kernels under the sanitizers, in a process of its own: needs NumPy only.

``python sanitized.py LIBRARY [overrun]``; the sanitizers end it at the first access out of bounds.
"""

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np
from emulator import SCHEDULES, Library

POINTERS, INTS = ctypes.c_void_p, ctypes.c_int64


class StepArguments(ctypes.Structure):
    _fields_ = [
        *((name, POINTERS) for name in ("table", "rows")),
        ("row_count", INTS),
        *((name, POINTERS) for name in ("state", "history")),
        *((name, INTS) for name in ("slots", "elements")),
        ("output", POINTERS),
        ("output_elements", INTS),
        *((name, POINTERS) for name in ("next_input", "denoised", "flags", "tickets")),
        *((name, ctypes.c_int32) for name in ("output_type", "next_type")),
    ]


class GatherArguments(ctypes.Structure):
    _fields_ = [
        *((name, POINTERS) for name in ("table", "rows")),
        ("row_count", INTS),
        *((name, POINTERS) for name in ("next_input", "x", "t")),
        ("elements", INTS),
        ("element_bytes", ctypes.c_int32),
    ]


class FillArguments(ctypes.Structure):
    _fields_ = [
        *((name, POINTERS) for name in ("out", "seeds", "images")),
        *((name, INTS) for name in ("row_count", "elements", "first")),
        *((name, ctypes.c_uint32) for name in ("draw", "tag")),
        ("scale", ctypes.c_float),
    ]


def arguments(kind: Any, **values: Any) -> Any:
    addresses = {k: v.ctypes.data if isinstance(v, np.ndarray) else v for k, v in values.items()}
    return ctypes.byref(kind(**addresses))


def run(library: Library, n: int, types: int, overrun: bool) -> None:
    """Two rows with every term, and padding; arrays of exactly the bytes that are needed."""
    table = np.zeros(96, np.uint8)
    table[:64].view(np.float32)[:] = 0.5
    table[64:88].view(np.float32)[:] = (1, 1, 1, 1, 5, 0.5)
    table[88:].view(np.int32)[:] = (4, 0)
    rows = np.zeros((3, 40), np.uint8)
    rows[:, 16:24].view(np.int32)[:] = ((0, 1), (0, -1), (0, 0))
    rows[:, 32:].view(np.int32)[:] = ((0, 1), (7, 7), (2, -1))
    element = np.float32 if types == 0 else np.uint16
    state, denoised = np.ones((2, 2, n - overrun), np.float32)
    history = np.ones((4, 2, n), np.float32)
    output, x = np.zeros((3, 2 * n), element), np.zeros((3, n), element)
    next_input, t = np.zeros((2, n), element), np.zeros(3, np.float32)
    flags, tickets = np.full(3, 9, np.uint8), np.zeros(3, np.uint32)
    step = arguments(
        StepArguments, table=table, rows=rows, row_count=3, state=state, history=history, slots=2,
        elements=n, output=output, output_elements=2 * n, next_input=next_input,
        denoised=denoised, flags=flags, tickets=tickets, output_type=types, next_type=types,
    )  # fmt: skip
    library.call("fastdiff_cuda_step", step, None)
    assert flags.tolist() == [0, 9, 0], flags
    gather = arguments(
        GatherArguments, table=table, rows=rows, row_count=3, next_input=next_input, x=x, t=t,
        elements=n, element_bytes=x.itemsize,
    )  # fmt: skip
    library.call("fastdiff_cuda_gather", gather, None)
    assert t.tolist() == [5, 5, 5]
    words = np.arange(2, dtype=np.uint64)
    fill = arguments(
        FillArguments, out=denoised, seeds=words, images=words, row_count=2, elements=n, first=3,
        draw=0, tag=1, scale=1,
    )  # fmt: skip
    library.call("fastdiff_cuda_fill_normal", fill, None)


if __name__ == "__main__":
    kernels = Library(Path(sys.argv[1]))
    for schedule in SCHEDULES[::3]:
        with kernels.schedule(schedule):
            for size in (1, 7, 8, 63, 64, 1500):
                for element_type in (0, 1, 2):
                    run(kernels, size, element_type, "overrun" in sys.argv)
