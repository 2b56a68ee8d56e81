"""The passes around a step inside of captured graphs."""

import pytest
import torch
from extras import NAMES
from graph_engines import DENOISER, NETWORK, SCHEDULES, graph_engine, make_request, plain, run
from recorded_graph import RecordedDevice

from fastdiff.engine.engine import Engine
from fastdiff.engine.pass_buffers import PassBuffers
from fastdiff.engine.requests import Passes
from fastdiff.records import BATCH_ROW

EVERYTHING = {"rows": 3, "guidance": 2.5, "extras": NAMES}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("extra", NAMES)
def test_each_extra_has_the_bits_of_the_host(extra, schedule):
    """Beside plain rows, in a bucket with padding."""
    requests = [
        make_request(solver, rows=3, seed=5, guidance=2.5, extras=[extra])
        for solver in ("ddpm, learned", "dpmpp_2m_sde")
    ]
    requests.append(make_request(rows=3, seed=6, guidance=2.5))
    engine = graph_engine(RecordedDevice(schedule), rows=10)
    for ours, request in zip(run(engine, *requests), requests, strict=True):
        assert torch.equal(ours, plain(request)[0])
    assert {status.eager_because for status in engine.executor.status()} == {None}


def test_a_tick_with_every_pass_is_still_one_small_copy_and_one_replay():
    device = RecordedDevice("late")
    engine = graph_engine(device)
    always_guided = {**EVERYTHING, "extras": set(NAMES) - {"guided"}}
    ticket = engine.submit(make_request(**always_guided))
    for _ in range(2):
        engine.advance(ticket)
    device.counts.clear()
    engine.advance(ticket)
    assert device.counts == {
        "to device": 1,
        "bytes to device": 6 * BATCH_ROW.itemsize,
        "replay": 1,
        "to host": 1,
        "bytes to host": 6,
    }
    (status,) = engine.executor.status()
    assert status.passes == Passes(rescaled=True, thresholded=True, blended=True)


def test_a_plain_batch_pays_nothing_for_the_passes_of_others(monkeypatch):
    """Neither on the host nor, operator by operator, in a graph."""
    fresh, used = RecordedDevice(), RecordedDevice()
    request = make_request(rows=2, seed=3, guidance=2.5)
    expected = run(graph_engine(fresh), request)[0]
    engine = graph_engine(used)
    host = Engine(NETWORK, DENOISER, {4: 1.0}, 8)
    for each in (engine, host):
        run(each, make_request(**EVERYTHING))
    monkeypatch.delattr(PassBuffers, "adapt")
    monkeypatch.delattr(PassBuffers, "blend")
    for each in (engine, host):
        assert torch.equal(run(each, request)[0], expected)
    assert used.graphs[-1].names() == fresh.graphs[-1].names()
