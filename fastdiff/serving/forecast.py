"""When each job will be done: the batcher's schedule, run ahead from end to end of its rows."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """Rows that each have the same way to go.

    Attributes
    ----------
    rows : int
        How many.
    steps : int
        Steps that each has left, at least 1.
    evaluations : int
        Evaluations of one row's step: 2 if it is guided.
    started : bool
        Whether they have taken a step, which matters where batches are formed by request.
    """

    rows: int
    steps: int
    evaluations: int = 1
    started: bool = False


def forecast(
    queue: Sequence[Work],
    limit: int,
    step_seconds: Callable[[int], float],
    *,
    by_request: bool = False,
) -> list[float]:
    """Return the seconds until each of `queue` is done, if nothing else comes.

    A step takes the longest beginning of the queue that fits (see `Batcher`), so a row starts as
    soon as those before it leave room, and then runs to its end. Time therefore goes from one such
    end to the next: the work is O(n log n) in the number of rows, and knows no steps.

    Parameters
    ----------
    queue : sequence of Work
        In the order in which it is served.
    limit : int
        Evaluations per step.
    step_seconds : callable
        Seconds of a step by its number of evaluations.
    by_request : bool
        A batch begins only when the one before it has ended.
    """
    done = [0.0] * len(queue)
    running: list[tuple[int, int, int]] = []  # (step at which they end, evaluations, whose)
    step, used, seconds = 0, 0, 0.0
    opened, closed = 0, any(work.started for work in queue)  # the batch that runs, by request

    def advance() -> None:
        nonlocal step, used, seconds, closed
        end, evaluations, whose = heapq.heappop(running)
        seconds += (end - step) * step_seconds(used) if end > step else 0.0
        step, used = end, used - evaluations
        closed = closed and used > 0
        done[whose] = seconds

    for whose, work in enumerate(queue):
        waiting = work.rows
        while waiting:
            fit = max((limit - used) // work.evaluations, 0 if used else 1)
            if by_request and used and (step > opened or (closed and not work.started)):
                fit = 0
            if fit == 0:
                advance()
                continue
            opened = opened if used else step
            starting = min(fit, waiting)
            heapq.heappush(running, (step + work.steps, starting * work.evaluations, whose))
            used, waiting = used + starting * work.evaluations, waiting - starting
    while running:
        advance()
    return done
