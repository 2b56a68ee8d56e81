"""What the engine knows of the batch between two changes of it, and of each step it launched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fastdiff.engine.batcher import Row, Turn
from fastdiff.engine.executor import Launched, Records, Slots
from fastdiff.engine.requests import Passes, Ticket
from fastdiff.errors import NonFiniteOutput


@dataclass(frozen=True)
class Share:
    """One ticket's rows in a batch."""

    ticket: Ticket
    positions: Slots  # where they are in the batch
    indices: Slots  # which images of the request they are


@dataclass(frozen=True)
class Tick:
    """What a tick of the engine launched.

    Attributes
    ----------
    rows, evaluations : int
        Rows that take the step, and evaluations of the network that it takes.
    tickets : list of Ticket
        Whose rows they are.
    """

    rows: int
    evaluations: int
    tickets: list[Ticket]


@dataclass
class Batch:
    """The batch, until a row joins, leaves, pauses or is guided no more; all take each step."""

    turn: Turn[Ticket]
    slots: Slots  # (B,)
    rows: Records  # (B,) BATCH_ROW, of the next step
    left: Slots  # (B,) steps that each row had left at first
    until: int  # steps after which somebody ends, or its guidance changes
    shares: list[Share]
    passes: Passes
    taken: int = 0  # steps so far

    def tick(self) -> Tick:
        """Describe a step."""
        evaluations = len(self.rows) + int(np.count_nonzero(self.rows["uncond"] >= 0))
        return Tick(len(self.rows), evaluations, [share.ticket for share in self.shares])


@dataclass(frozen=True)
class Step:
    """A step that was launched and whose result has not been looked at."""

    number: int  # of the batch's steps, from 1
    batch: Batch
    leaving: Slots  # positions of the rows that end with it
    launched: Launched

    def behind(self, share: Share) -> int:
        """Return how many steps the rows of `share` have taken with this one, the least of them."""
        left = int(self.batch.left[share.positions].max())
        return share.ticket.request.steps - left + self.number


def shares_of(batch: Sequence[Row[Ticket]]) -> list[Share]:
    """Divide the rows of `batch` by ticket."""
    by_ticket: dict[Ticket, list[tuple[int, int]]] = {}
    for position, row in enumerate(batch):
        by_ticket.setdefault(row.job, []).append((position, row.index))
    return [
        Share(ticket, *np.array(pairs, np.int64).T.copy()) for ticket, pairs in by_ticket.items()
    ]


def non_finite(step: Step, share: Share, bad: Slots) -> NonFiniteOutput:
    """Describe the first bad row of a request; `bad` are positions."""
    request = share.ticket.request
    taken = request.steps - int(step.batch.left[bad[0]]) + step.number - 1
    image = int(share.indices[share.positions == bad[0]][0])
    return NonFiniteOutput(taken, request.steps, image, float(request.table.rows["t"][taken]))
