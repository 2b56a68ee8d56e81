"""What leaves the device: images, flags and errors, while the host is one step ahead."""

import numpy as np
import pytest
import torch
from graph_engines import (
    BAD_LABEL,
    SCHEDULES,
    SHAPE,
    TABLES,
    Planted,
    graph_engine,
    make_request,
    plain,
    run,
)
from recorded_graph import RecordedDevice

from fastdiff.errors import Cancelled, NonFiniteOutput


def test_the_host_is_one_step_ahead_and_the_last_step_sends_the_images():
    device = RecordedDevice("late")
    engine = graph_engine(device)
    ticket = engine.submit(make_request(steps=2, rows=2))
    engine.advance(ticket)
    assert (device.counts["replay"], ticket.completed) == (1, 0)
    engine.advance(ticket)
    assert (device.counts["replay"], ticket.completed) == (2, 2)
    device.counts.clear()
    engine.advance(ticket)
    assert (device.counts["replay"], ticket.completed, ticket.done) == (0, 4, True)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_images_arrive_whole_while_the_next_steps_run(schedule):
    """Rows end at different steps, so that others overwrite their slots while they travel."""
    requests = [
        make_request("euler_ancestral", steps=steps, rows=rows, seed=10 * steps + rows)
        for rows in (1, 2, 3)
        for steps in (1, 2, 5)
    ]
    got = run(graph_engine(RecordedDevice(schedule), rows=4), *requests)
    for request, images in zip(requests, got, strict=True):
        assert torch.equal(images, plain(request)[0])


def one_frame(executor):
    """Every step shares the same pinned memory."""
    executor._frames = [executor._frames[0]] * 2


def one_stage(executor):
    """Both frames stage their images in the same device memory."""
    first, second = executor._frames
    second._staged = first._staged = torch.empty(8, 15)
    for frame in executor._frames:
        frame._samples = executor._device.pinned(8, 15, dtype=torch.float32)


def no_stage(executor):
    """Images travel straight from their slots, which others may have by then."""

    def send(frame, slots):
        samples, _ = frame.room_for(len(slots), 15)
        executor._copies.wait(executor._compute.record())
        executor._copies.copy(samples, executor._buffers.state[: len(slots)])
        return samples.view(-1, *SHAPE), executor._copies.record()

    executor._send = send


def no_order(executor):
    """The second stream does not wait for the step."""
    executor._copies.wait = lambda event: None


def no_mistake(executor):
    """What the others are compared with."""


@pytest.mark.parametrize("mistake", [one_frame, one_stage, no_stage, no_order, no_mistake])
def test_a_mistake_in_the_double_buffering_is_caught(mistake):
    """By wrong images, or by the device that sees pinned memory change under a copy."""
    caught = 0
    for schedule in SCHEDULES:
        engine = graph_engine(RecordedDevice(schedule), rows=2)
        mistake(engine.executor)
        requests = [make_request("ddim", steps=1, rows=2, seed=seed) for seed in range(6)]
        try:
            got = run(engine, *requests)
        except (AssertionError, NonFiniteOutput):
            caught += 1
            continue
        expected = plain(*requests)
        caught += any(not torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert (caught > 0) == (mistake is not no_mistake)


def test_bad_output_fails_its_own_request_and_names_the_step():
    engine = graph_engine(RecordedDevice("late"), rows=3)
    good, bad = make_request(rows=1, seed=1), make_request(rows=2, seed=2, label=BAD_LABEL)
    tickets = [engine.submit(request) for request in (bad, good)]
    while not tickets[1].done:
        engine.advance(tickets[1])
    assert torch.equal(tickets[1].result(), plain(good)[0])
    times = TABLES["ddim", 5].rows["t"]
    first = int(np.argmax(times < 500))
    with pytest.raises(NonFiniteOutput, match=f"step {first + 1} of 5") as caught:
        tickets[0].result()
    assert 0 < first == caught.value.step
    assert (caught.value.image, caught.value.timestep) == (0, times[first])


def test_a_callback_sees_each_step_before_the_next_and_may_cancel():
    device, seen = RecordedDevice("late"), []

    def callback(info):
        seen.append((info.step, device.counts["replay"]))
        if info.step == 3:
            info.cancel()

    engine = graph_engine(device)
    run(engine, make_request(seed=1))
    device.counts.clear()
    ticket = engine.submit(make_request(rows=2, callback=callback))
    while not ticket.done:
        engine.advance(ticket)
    assert seen == [(1, 1), (2, 2), (3, 3)]
    with pytest.raises(Cancelled, match="step 3 of 5"):
        ticket.result()


def test_a_raising_model_spares_what_was_finished_and_the_engine_goes_on():
    armed = []

    def fail(x):
        if armed:
            raise RuntimeError("planted failure")

    denoiser = Planted(fail)
    denoiser.eager_because = "planted"
    engine = graph_engine(RecordedDevice("late"), denoiser)
    requests = [make_request(steps=steps, rows=2, seed=steps) for steps in (2, 5)]
    short, long = (engine.submit(request) for request in requests)
    for _ in range(2):
        engine.advance(short)
    assert not short.done  # its last step has been launched
    armed.append(True)
    engine.advance(short)
    armed.clear()
    with pytest.raises(RuntimeError, match="planted failure"):
        long.result()
    engine.advance(short)
    assert torch.equal(short.result(), plain(requests[0])[0])
    assert torch.equal(run(engine, requests[1])[0], plain(requests[1])[0])


def test_a_replay_that_fails_leaves_the_frames_usable():
    device = RecordedDevice("late")
    engine = graph_engine(device)
    request = make_request(rows=2)
    run(engine, request)

    def fail():
        raise RuntimeError("planted failure")

    (graph,) = device.graphs
    replay, graph.replay = graph.replay, fail
    with pytest.raises(RuntimeError, match="planted failure"):
        run(engine, make_request(rows=2, seed=8))
    graph.replay = replay
    assert torch.equal(run(engine, request)[0], plain(request)[0])


def test_a_failure_that_shows_late_fails_the_requests_of_its_step():
    """Those whose rows left with it, and those that run on what it left behind."""
    engine = graph_engine(RecordedDevice("late"))
    engine.prepare(8)  # a capture waits for everything
    copies = engine.executor._copies
    copy = copies.copy

    def fail():
        raise RuntimeError("planted failure")

    ended, running = (
        engine.submit(make_request(steps=steps, rows=2, seed=steps)) for steps in (2, 5)
    )
    copies.copy = lambda target, source: copies.enqueue(fail)
    for _ in range(2):
        engine.advance(ended)
    assert not ended.done
    joined = engine.submit(make_request(seed=9))
    engine.advance(ended)
    copies.copy = copy
    for ticket in (ended, running, joined):
        with pytest.raises(RuntimeError, match="planted failure"):
            ticket.result()
    request = make_request(rows=2)
    assert torch.equal(run(engine, request)[0], plain(request)[0])


def test_a_cancelled_request_takes_nothing_from_a_step_in_flight():
    engine = graph_engine(RecordedDevice("late"), rows=3)
    short = engine.submit(make_request(steps=1, seed=1))
    split = engine.submit(make_request(steps=2, rows=3, seed=2))  # its last row joins later
    other = make_request(steps=5, seed=3)
    for _ in range(2):
        engine.advance(split)  # its first rows' last step is in flight
    engine.cancel(split)
    assert torch.equal(run(engine, other)[0], plain(other)[0])
    assert short.done
    assert split.done
    with pytest.raises(Cancelled):
        split.result()
