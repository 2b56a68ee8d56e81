"""What the engine knows of the batch between two changes of it, and of each step it launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastdiff.errors import NonFiniteOutput
from fastdiff.runtime.batcher import Assignment
from fastdiff.runtime.device import Launched, Records, Slots
from fastdiff.runtime.requests import Passes, Ticket


@dataclass(frozen=True)
class Share:
    """One ticket's rows in a batch."""

    ticket: Ticket
    positions: Slots  # where they are in the batch
    indices: Slots  # which images of the request they are


@dataclass
class Plan:
    """The batch, until a row joins, leaves or is guided no more. All of its rows take each step."""

    slots: Slots  # (B,)
    rows: Records  # (B,) BATCH_ROW, of the next step
    ends: Slots  # (B,) number of the step that is each row's last
    until: int  # number of the step after which somebody ends, or its guidance changes
    shares: list[Share]
    passes: Passes


@dataclass(frozen=True)
class Step:
    """A step that was launched and whose result has not been looked at."""

    number: int
    plan: Plan
    leaving: Slots  # positions of the rows that end with it
    launched: Launched


def shares_of(batch: Sequence[Assignment[Ticket]]) -> list[Share]:
    """Divide the rows of `batch` by ticket."""
    by_ticket: dict[Ticket, list[tuple[int, int]]] = {}
    for position, row in enumerate(batch):
        by_ticket.setdefault(row.request, []).append((position, row.index))
    return [
        Share(ticket, *np.array(pairs, np.int64).T.copy()) for ticket, pairs in by_ticket.items()
    ]


def non_finite(step: Step, share: Share, bad: Slots) -> NonFiniteOutput:
    """Describe the first bad row of a request; `bad` are positions."""
    request = share.ticket.request
    taken = request.steps - int(step.plan.ends[bad[0]]) + step.number - 1
    image = int(share.indices[share.positions == bad[0]][0])
    return NonFiniteOutput(taken, request.steps, image, float(request.table.rows["t"][taken]))
