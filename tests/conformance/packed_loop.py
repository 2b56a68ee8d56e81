"""The step of docs/contracts.md in float32 NumPy, term by term."""

from dataclasses import replace

import numpy as np

from fastdiff.records import TABLE_ROW
from fastdiff.sampling.packing import assign_slots


def run_packed(packed, outputs, x, noise, log_variance=None, dtype=np.float32):
    """Run a PackedTable; `outputs` is a list of arrays or a callable (x_in, t, i) -> m.

    Every input is rounded to `dtype` first. Returns x after each row.
    """
    x = np.asarray(x, dtype)
    history = np.full((5, *x.shape), np.nan, dtype)  # a slot nobody wrote must not be read
    c_in, trajectory = dtype(packed.first_c_in), []
    for i, row in enumerate(packed.rows):
        m = outputs(c_in * x, row["t"], i) if callable(outputs) else outputs[i]
        m = np.asarray(m, dtype)
        clip = dtype(row["clip"])
        D = np.minimum(np.maximum(dtype(row["p"]) * x + dtype(row["q"]) * m, -clip), clip)
        z = np.asarray(noise[i], dtype)
        if row["w"]:
            z = np.exp(dtype(row["w"]) * np.asarray(log_variance[i], dtype)) * z
        columns = [x, *history[1:], D, m, z]
        new = _combine(row["x"], columns, dtype)
        if row["dst"]:
            history[row["dst"]] = _combine(row["h"], columns, dtype)
        x = new
        trajectory.append(x)
        c_in = dtype(row["c_in_next"])
    return np.array(trajectory)


def _combine(coefficients, columns, dtype):
    c = coefficients.astype(dtype)
    total = c[0] * columns[0] + c[5] * columns[5]
    for j in (6, 1, 2, 3, 4, 7):
        if c[j]:
            total = total + c[j] * columns[j]
    return total


def widened(table):
    """The packed form of a table with float64 coefficients, to tell packing from rounding."""
    narrow = table.pack()
    kinds = [
        (name, np.float64 if kind.base == np.float32 else kind.base, kind.shape)
        for name, (kind, _) in TABLE_ROW.fields.items()
    ]
    rows = np.zeros(len(table), kinds)
    rows["x"], rows["h"], rows["dst"] = assign_slots(table.update)
    for name in ("p", "q", "clip", "t", "w"):
        rows[name] = getattr(table, name)
    rows["c_in_next"] = np.append(table.c_in[1:], 1.0)
    return replace(narrow, rows=rows, first_c_in=table.c_in[0])
