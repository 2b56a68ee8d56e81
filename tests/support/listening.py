"""What hears and counts what a worker does."""

import threading
from dataclasses import dataclass, field

from fastdiff.serving.events import Failed, Finished

SECONDS = 20.0  # no test of a worker takes that long


@dataclass
class Counts:
    """An observer."""

    rows: list = field(default_factory=list)
    waste: list = field(default_factory=list)
    bad: int = 0
    rebuilds: int = 0

    def step(self, rows, evaluations, seconds):
        assert evaluations >= rows
        assert seconds > 0
        self.rows.append(rows)

    def wasted(self, row_steps, reason):
        self.waste.append((row_steps, reason))

    def non_finite(self, rows):
        self.bad += rows

    def rebuilt(self):
        self.rebuilds += 1


class Heard:
    """A listener that waits for the end."""

    def __init__(self):
        self.events, self._ended = [], threading.Event()
        self.threads = set()

    def __call__(self, event):
        self.events.append(event)
        self.threads.add(threading.current_thread().name)
        if isinstance(event, (Finished, Failed)):
            self._ended.set()

    @property
    def end(self):
        assert self._ended.wait(SECONDS)
        return self.events[-1]

    @property
    def error(self):
        assert isinstance(self.end, Failed)
        return self.end.error
