"""The graph executor on a recorded device: the plain engine's bits, and what a tick costs."""

import logging

import pytest
import torch
from extras import EXTRAS, NAMES
from graph_engines import (
    BAD_LABEL,
    DENOISER,
    NETWORK,
    SCHEDULES,
    SHAPE,
    SOLVERS,
    Planted,
    Rational,
    graph_engine,
    make_request,
    plain,
    play,
    run,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_graph import RecordedDevice

from fastdiff.backends import BACKENDS
from fastdiff.engine import graph_executor as graphs
from fastdiff.engine.batcher import Batching
from fastdiff.engine.cuda_device import CudaDevice
from fastdiff.engine.engine import Engine
from fastdiff.engine.graph_executor import bucket_of, buckets_up_to
from fastdiff.engine.policies import SHORTEST_REMAINING
from fastdiff.models import NULL_CLASS, load_digits
from fastdiff.networks import Conditioning, Network
from fastdiff.records import BATCH_ROW

EVENTS = st.fixed_dictionaries(
    {
        "request": st.tuples(
            st.sampled_from(sorted(SOLVERS)),
            st.sampled_from([1, 2, 5]),
            st.integers(1, 5),
            st.integers(0, 2**64 - 1),
            st.sampled_from([1.0, 0.0, 2.5]),
            st.integers(0, BAD_LABEL),
            EXTRAS,
        ),
        "arrives": st.integers(0, 6),
        "leaves": st.sampled_from([0, 0, 0, 0, 2, 4]),  # 0: never, nobody arrives before it
    }
)


@settings(max_examples=40, deadline=None)
@given(
    events=st.lists(EVENTS, min_size=1, max_size=5),
    batch=st.integers(1, 9),
    rows=st.integers(1, 9),
    limit=st.none() | st.integers(1, 9),
    schedule=st.sampled_from(["early", "late"]) | st.integers(0, 99),
)
def test_any_mix_gives_the_bits_of_the_plain_engine(events, batch, rows, limit, schedule):
    """Solvers, steps, guidance, seeds, joins, pauses, cancels, failures, the device's timing."""
    batching = Batching(SHORTEST_REMAINING, limit)
    device = RecordedDevice(schedule)
    got = play(graph_engine(device, batch=batch, rows=rows, batching=batching), events)
    stay = [{**event, "leaves": 0} for event in events]
    expected = play(Engine(NETWORK, DENOISER, {batch: 1.0}, rows), stay)
    arrived = sorted(events, key=lambda event: event["arrives"])
    for event, ours, theirs in zip(arrived, got, expected, strict=True):
        if isinstance(ours, str):
            assert ours == theirs or (event["leaves"] and "cancelled" in ours)
        else:
            assert torch.equal(ours, theirs)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_padding_and_unused_slots_are_not_touched(schedule):
    engine = graph_engine(RecordedDevice(schedule), rows=24)
    buffers = engine.executor._buffers
    for memory in (buffers.state, buffers.inputs, buffers.history):
        memory.fill_(torch.nan)
    request = make_request("dpmpp_2m_sde", rows=9, guidance=2.5)  # 18 evaluations of 20
    assert torch.equal(run(engine, request)[0], plain(request)[0])
    for memory in (buffers.state, buffers.inputs, buffers.history[0]):
        assert memory[9:].isnan().all()
        assert memory[:9].isfinite().all()


def test_a_row_that_left_is_padding_from_then_on():
    engine = graph_engine(RecordedDevice("late"), rows=10)
    longer = engine.submit(make_request(rows=9, seed=1))
    short = engine.submit(make_request(steps=2, seed=2))  # both share a bucket of 10
    while not longer.done:
        engine.advance(longer)
    assert torch.equal(engine.executor._buffers.state[9].view(1, *SHAPE), short.result())
    assert [status.evaluations for status in engine.executor.status()] == [10]


@given(evaluations=st.integers(1, 5000))
def test_buckets_hold_their_batches_with_less_than_a_fifth_of_padding(evaluations):
    bucket = bucket_of(evaluations)
    assert 0 <= bucket - evaluations < bucket / 5
    assert bucket_of(bucket) == bucket
    assert bucket <= 8 or bin(bucket).count("1") <= 3


def test_a_tick_is_one_small_copy_and_one_replay():
    device = RecordedDevice("late")
    engine = graph_engine(device)
    ticket = engine.submit(make_request(rows=3, guidance=2.5))
    for _ in range(2):
        engine.advance(ticket)
    device.counts.clear()
    engine.advance(ticket)
    assert device.counts == {
        "to device": 1,
        "bytes to device": 6 * BATCH_ROW.itemsize,
        "replay": 1,
        "to host": 1,
        "bytes to host": 6,  # flags
    }
    (graph,) = device.graphs
    names = graph.names()
    assert [n for n in names if "fastdiff" in n] == [
        "fastdiff.gather.default",
        "fastdiff.step.default",
    ]


def test_prepare_captures_the_largest_first_and_leaves_nothing_to_capture():
    device = RecordedDevice()
    engine = graph_engine(device, rows=6)
    engine.prepare(100)  # as far as 6 guided rows need
    assert [s.evaluations for s in engine.executor.status()] == list(reversed(buckets_up_to(12)))
    prepared = len(device.graphs)
    assert prepared == 10
    requests = [make_request(rows=n, guidance=g) for n in (1, 4, 6) for g in (1.0, 2.5)]
    for request in requests:
        assert torch.equal(run(engine, request)[0], plain(request)[0])
    assert len(device.graphs) == prepared


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_a_denoiser_in_half_precision_leaves_the_state_in_float32(precision):
    denoiser = BACKENDS["eager"].build(NETWORK, precision)
    engine = graph_engine(RecordedDevice(), denoiser)
    request = make_request("dpmpp_2m_sde", rows=3, seed=4, guidance=2.5)
    got = run(engine, request)[0]
    assert torch.equal(got, plain(request, denoiser=denoiser)[0])
    assert not torch.equal(got, got.to(denoiser.input_dtype).float())
    assert engine.executor.status()[0].eager_because is None


def test_a_unet_with_attention_is_captured():
    """The digits model: its replays have the bits of the same operators launched one by one."""
    labels = {"class_labels": Conditioning(num_classes=10, null=NULL_CLASS)}
    network = Network(load_digits(), (1, 8, 8), labels, "digits")
    images = []
    for eager_because in (None, "for comparison"):
        denoiser = BACKENDS["eager"].build(network, "float32")
        denoiser.eager_because = eager_because
        engine = Engine(network, denoiser, {16: 1.0}, 4, RecordedDevice())
        images += run(engine, make_request(rows=3, seed=7, guidance=2.0))
        assert [status.eager_because for status in engine.executor.status()] == [eager_because]
    assert torch.equal(*images)
    assert 0.5 < images[0].std() < 1


def test_a_baked_step_index_is_caught():
    """What Python knows during capture is frozen, which the comparison with the engine shows."""
    step = [0]

    def count(x):
        step[0] += 1
        return 1.0 + 0.01 * step[0]

    request = make_request(rows=2)
    expected = plain(request, denoiser=Planted(count))[0]
    step[0] = 0
    engine = graph_engine(RecordedDevice(), Planted(count))
    assert not torch.equal(run(engine, request)[0], expected)
    assert engine.executor.status()[0].eager_because is None


PLANTS = {
    "_local_scalar_dense": lambda x: 1.0 + 0 * x[0, 0, 0, 0].item(),
    "wait for a value": lambda x: 1.0 if torch.equal(x, x) else 2.0,
    "a size depends on data": lambda x: 1.0 + 0 * x.flatten().nonzero().sum(),
    "a mask's size": lambda x: 1.0 + 0 * x[x.isnan()].sum(),
    "cpu()": lambda x: 1.0 + 0 * x.cpu().sum(),
    "numpy()": lambda x: 1.0 + 0 * float(x.numpy()[0, 0, 0, 0]),
    "tolist()": lambda x: 1.0 + 0 * x.flatten().tolist()[0],
    "host data becomes a tensor": lambda x: torch.tensor(1.0),
    "randn_like": lambda x: 1.0 + 0 * torch.randn_like(x).sum(),
    "bernoulli": lambda x: 1.0 + 0 * torch.empty(3).bernoulli_(0.5).sum(),
    "the pool has no room": lambda x: 1.0 + torch.zeros(1 << 20).sum(),
}


@pytest.mark.parametrize("reason", sorted(PLANTS))
def test_what_cannot_be_captured_runs_eagerly_and_says_why(reason, caplog):
    device = RecordedDevice(pool_bytes=1 << 20)
    engine = graph_engine(device, Planted(PLANTS[reason]))
    request = make_request(rows=2, guidance=2.5)
    with caplog.at_level(logging.WARNING, "fastdiff"):
        got = run(engine, request)[0]
    assert torch.equal(got, plain(request)[0])
    (status,) = engine.executor.status()
    assert reason in status.eager_because
    assert (len(device.graphs), device.counts["replay"]) == (0, 0)
    assert len(caplog.records) == 1
    assert reason in caplog.text


def test_a_denoiser_that_declares_it_runs_eagerly_between_the_kernels():
    """Such as onnxruntime, which has a stream of its own."""
    denoiser = Planted()
    denoiser.eager_because = "it runs on a stream of its own"
    device = RecordedDevice("late")
    engine = graph_engine(device, denoiser)
    request = make_request(rows=3, guidance=2.5)
    assert torch.equal(run(engine, request)[0], plain(request)[0])
    assert engine.executor.status()[0].eager_because == "it runs on a stream of its own"
    assert device.graphs == []


def test_graphs_can_be_switched_off(monkeypatch):
    monkeypatch.setenv("FASTDIFF_GRAPHS", "0")
    device = RecordedDevice("late")
    engine = graph_engine(device, Planted())
    request = make_request(rows=3, guidance=2.5)
    assert torch.equal(run(engine, request)[0], plain(request)[0])
    assert engine.executor.status()[0].eager_because == "FASTDIFF_GRAPHS=0 asks for it"
    assert device.graphs == []


def test_new_weights_are_captured_anew():
    device = RecordedDevice()
    denoiser = Planted()
    denoiser.version = 0
    engine = graph_engine(device, denoiser)
    ticket = engine.submit(make_request(rows=2))
    engine.advance(ticket)
    request = make_request(rows=2, seed=9)
    assert torch.equal(run(engine, request)[0], plain(request)[0])
    assert len(device.graphs) == 2  # of 4 evaluations, then of 2

    denoiser.weight = torch.tensor(0.5)
    stale = run(engine, request)[0]
    assert torch.equal(stale, plain(request)[0])  # a replay reads the old address
    denoiser.version = 1
    assert torch.equal(run(engine, request)[0], plain(request, denoiser=Planted(weight=0.5))[0])
    assert len(device.graphs) == 3


def test_memory_that_moves_is_captured_anew(monkeypatch):
    monkeypatch.setattr(graphs, "_HISTORY_SLOTS", 0)
    device = RecordedDevice("late")
    engine = graph_engine(device)
    executor = engine.executor
    monkeypatch.setattr(executor._tables, "records", executor._tables.records[:6])
    first = make_request(steps=5, rows=2, seed=1)
    second = make_request("dpmpp_2m_sde", steps=5, rows=2, seed=2)  # has no room
    ticket = engine.submit(first)
    engine.advance(ticket)
    got = run(engine, second)[0]
    assert (executor._tables.generation, executor._buffers.generation) == (1, 1)
    assert torch.equal(got, plain(second)[0])
    assert torch.equal(ticket.result(), plain(first)[0])

    captured = len(device.graphs)
    seen = []
    observed = make_request(rows=2, seed=3, callback=lambda info: seen.append(info.denoised))
    assert torch.equal(run(engine, observed)[0], plain(observed)[0])
    assert len(device.graphs) == captured + 1
    for got, expected in zip(seen[:5], seen[5:], strict=True):
        assert torch.equal(got, expected)


def test_graphs_over_the_limit_are_evicted_by_their_last_use():
    probe = graph_engine(RecordedDevice())
    probe.prepare(4)
    bytes_of = {status.evaluations: status.bytes for status in probe.executor.status()}
    device = RecordedDevice(graph_bytes=bytes_of[4] + bytes_of[2] + bytes_of[1])
    engine = graph_engine(device)

    def in_use():
        return [status.evaluations for status in engine.executor.status()]

    for rows in (4, 1, 2, 4):
        request = make_request(rows=rows, seed=rows)
        assert torch.equal(run(engine, request)[0], plain(request)[0])
    assert in_use() == [1, 2, 4]
    request = make_request(rows=3, seed=3)
    assert torch.equal(run(engine, request)[0], plain(request)[0])
    assert in_use() == [4, 3]
    assert sum(status.bytes for status in engine.executor.status()) <= device.graph_bytes


def test_a_graph_that_no_eviction_makes_room_for_runs_eagerly():
    engine = graph_engine(RecordedDevice(graph_bytes=100))
    request = make_request(rows=2)
    assert torch.equal(run(engine, request)[0], plain(request)[0])
    assert "graphs may hold 100" in engine.executor.status()[0].eager_because


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_cuda_device_gives_the_bits_of_the_plain_engine():
    """The model is exactly rounded, and noise and update have the same bits on every device."""
    device = CudaDevice(torch.device("cuda:0"))

    class OnDevice(Planted):
        module = Rational().to(device.memory)

        def bind(self, x, t, conditioning, out):
            def call():
                with torch.inference_mode():
                    out.copy_(self.module(x, t, **conditioning))

            return call

    engine = graph_engine(device, OnDevice())
    for name in sorted(SOLVERS):
        for guidance in (1.0, 2.5):
            for extras in ((), NAMES):
                request = make_request(name, rows=3, seed=5, guidance=guidance, extras=extras)
                assert torch.equal(run(engine, request)[0], plain(request)[0])
    assert {status.eager_because for status in engine.executor.status()} == {None}
