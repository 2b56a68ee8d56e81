"""How the evaluations of a tick are cut into denoiser calls."""

from __future__ import annotations

from collections.abc import Mapping


def best_batch(seconds: Mapping[int, float], rows: int) -> int:
    """Return the batch size that evaluates `rows` rows soonest.

    On a CPU a large batch can be slower per row than a small one, and a batch that is mostly empty
    wastes its size: 17 rows are better cut by 8 than by 16.

    Parameters
    ----------
    seconds : mapping of int to float
        Measured time of a call by its number of rows.
    rows : int
        At least 1.
    """
    return min(seconds, key=lambda batch: -(-rows // batch) * seconds[batch])


def parts(rows: int, batch: int) -> list[slice]:
    """Cut `rows` evaluations into as few calls as `batch` allows, of almost equal size."""
    calls = -(-rows // batch)
    return [slice(rows * i // calls, rows * (i + 1) // calls) for i in range(calls)]
