"""Engines on recorded devices, and the plain engine that they are compared with."""

import numpy as np
import torch
from extras import with_extras
from torch import nn

from fastdiff.backends import BACKENDS, Denoiser
from fastdiff.engine.batcher import EVERYONE
from fastdiff.engine.engine import Engine
from fastdiff.engine.requests import Request
from fastdiff.errors import Cancelled, NonFiniteOutput
from fastdiff.networks import Conditioning, Network
from fastdiff.sampling import Schedule, get_solver

SHAPE = (1, 3, 5)
NULL_LABEL = 4
BAD_LABEL = 3
SOLVERS = {
    "ddim": get_solver("ddim"),
    "ddpm, learned": get_solver("ddpm", variance_type="learned_range"),
    "euler_ancestral": get_solver("euler_ancestral"),
    "dpmpp_2m_sde": get_solver("dpmpp_2m_sde"),
}
TABLES = {
    (name, steps): solver.table(Schedule(), steps=steps).pack()
    for name, solver in SOLVERS.items()
    for steps in (1, 2, 5)
}
SCHEDULES = ["early", "late", 0, 1, 2]


class Rational(nn.Module):
    """A nonlinear model of exactly rounded elementwise operators: its bits know no batch.

    Label 3 brings NaN below t = 500.
    """

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.scale = nn.Parameter(torch.randn(5, *SHAPE, generator=generator))
        self.shift = nn.Parameter(torch.randn(5, *SHAPE, generator=generator))

    def forward(self, x, t, class_labels):
        hidden = self.scale[class_labels] * x + self.shift[class_labels] * x.flip(-1)
        hidden = hidden + 0.001 * t[:, None, None, None]
        bad = (class_labels == BAD_LABEL) & (t < 500)
        out = hidden / (1 + hidden * hidden) / ~bad[:, None, None, None]
        return torch.cat([out, 0.5 - out], dim=1)


LABELS = {"class_labels": Conditioning(num_classes=NULL_LABEL, null=NULL_LABEL)}
NETWORK = Network(Rational(), SHAPE, LABELS, "rational")
DENOISER = BACKENDS["eager"].build(NETWORK, "float32")


class Planted(Denoiser):
    """The denoiser above; `plant` is called on x in each evaluation, and scales the output."""

    backend, precision = "planted", "float32"

    output_channels, version = 2, None

    def __init__(self, plant=lambda x: None, weight=1.0):
        self.plant, self.weight = plant, torch.tensor(weight)

    def bind(self, x, t, conditioning, out):
        weight, run = self.weight, DENOISER.bind(x, t, conditioning, out)

        def planted():
            run()
            extra = self.plant(x)
            out.mul_(weight if extra is None else extra)

        return planted


def make_request(
    solver="ddim", steps=5, rows=1, seed=0, guidance=1.0, label=1, extras=(), callback=None
):
    request = Request(
        table=TABLES[solver, steps],
        seeds=np.full(rows, seed, np.uint64),
        images=np.arange(rows, dtype=np.uint64),
        guidance=np.full(rows, guidance, np.float32),
        conditioning={"class_labels": torch.full((rows,), label)},
        callback=callback,
    )
    return with_extras(request, extras, SHAPE)


def graph_engine(device, denoiser=DENOISER, batch=4, rows=8, batching=EVERYONE):
    return Engine(NETWORK, denoiser, {batch: 1.0}, rows, device, batching=batching)


def run(engine, *requests):
    """Sample requests together."""
    tickets = [engine.submit(request) for request in requests]
    for ticket in tickets:
        while not ticket.done:
            engine.advance(ticket)
    return [ticket.result() for ticket in tickets]


def plain(*requests, denoiser=DENOISER):
    return run(Engine(NETWORK, denoiser, {4: 1.0}, 8), *requests)


def play(engine, events):
    """Submit, cancel and advance as `events` say; return every ticket's result or error."""
    tickets = []
    for tick in range(8):
        for event in events:
            if event["arrives"] == tick:
                ticket = engine.submit(make_request(*event["request"]), patience=1e6)
                tickets.append((ticket, event))
            elif event["leaves"] == tick and event["arrives"] < tick:
                engine.cancel(next(t for t, e in tickets if e is event))
        for ticket, _ in [pair for pair in tickets if not pair[0].done][:1]:
            engine.advance(ticket)
    for ticket, _ in tickets:
        while not ticket.done:
            engine.advance(ticket)
    return [outcome(ticket) for ticket, _ in tickets]


def outcome(ticket):
    try:
        return ticket.result()
    except (Cancelled, NonFiniteOutput) as error:
        return str(error)
