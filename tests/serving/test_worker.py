"""A model's worker: what clients hear, what neighbours notice, what happens to places."""

import threading
import time

import pytest
import torch
from listening import SECONDS, Counts, Heard
from networks import RowByRow, eager_sampler, row_by_row_network

from fastdiff.engine.policies import Policy
from fastdiff.errors import (
    Cancelled,
    DeadlineImpossible,
    InvalidArgument,
    NonFiniteOutput,
    Overloaded,
    Unavailable,
)
from fastdiff.networks import Network
from fastdiff.serving.admission import Queueing
from fastdiff.serving.events import Failed, Finished, Progress, Started
from fastdiff.serving.jobs import Job
from fastdiff.serving.worker import ModelWorker


class Obeys(RowByRow):
    """As its parent, but waits for `gate`; label 2 gives NaN below t = 500, label 3 may raise."""

    gate = threading.Event()
    entered = threading.Event()
    armed = 0  # how often label 3 raises

    def forward(self, x, t, class_labels):
        type(self).entered.set()
        assert self.gate.wait(SECONDS)
        if self.armed and (class_labels == 3).any():
            type(self).armed -= 1
            raise RuntimeError("planted failure")
        bad = (class_labels == 2) & (t < 500)
        return torch.where(bad[:, None, None, None], torch.nan, super().forward(x, t, class_labels))


@pytest.fixture(autouse=True)
def _obeys():
    Obeys.gate.set()
    Obeys.entered.clear()
    Obeys.armed = 0
    yield
    Obeys.gate.set()


Obeys.gate.set()
NETWORK = row_by_row_network()
NETWORK = Network(Obeys(), NETWORK.sample_shape, NETWORK.conditioning, "obeys")
SAMPLER = eager_sampler(NETWORK, batch=2)
SIZE = NETWORK.sample_shape[1:]


@pytest.fixture
def worker():
    """Return a function that makes a worker, which is closed at the end."""
    made = []

    def make(samplers=SAMPLER, observer=None, **queueing):
        options = {"backlog_seconds": 1e6, **queueing}  # nothing is known of the costs at first
        made.append(ModelWorker("obeys", samplers, observer, queueing=Queueing(**options)))
        return made[-1]

    yield make
    Obeys.gate.set()
    for each in made:
        each.close()
        assert each.status().jobs == each.status().running_rows == 0


def start(worker, n=1, steps=4, label=1, seed=7, progress_every=0, solver="ddim", **described):
    """Reserve, run, and return what is heard with the job."""
    request = SAMPLER.request(n, steps=steps, seed=seed, class_labels=label, solver=solver)
    heard, job = Heard(), reserved(worker, n, request.steps, **described)
    worker.run(job, request, heard, progress_every=progress_every)
    return heard, job


def reserved(worker, rows, steps, size=SIZE, **described):
    """Return a job that has its place."""
    job = Job(rows, steps, size, **described)
    worker.reserve(job)
    return job


def until(condition):
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


@pytest.mark.parametrize("policy", ["first-come", "shortest-remaining", "deadline"])
@pytest.mark.parametrize("by_request", [False, True])
def test_images_are_those_of_the_sampler_in_whatever_order(worker, policy, by_request):
    counts = Counts()
    running = worker(observer=counts, policy=Policy(policy), by_request=by_request, limit=3)
    Obeys.gate.clear()
    cases = [(n, steps, n + steps) for n in (1, 2, 5) for steps in (4, 8, 5)]
    ends = [start(running, n, steps, seed=seed, solver="dpmpp_2m")[0] for n, steps, seed in cases]
    Obeys.gate.set()
    for (n, steps, seed), heard in zip(cases, ends, strict=True):
        expected = SAMPLER.sample(n, steps=steps, seed=seed, class_labels=1, solver="dpmpp_2m")
        assert torch.equal(heard.end.samples, expected)
    assert max(counts.rows) <= 3
    assert sum(counts.rows) == sum(n * steps for n, steps, _ in cases)
    assert counts.waste == []


def test_a_job_hears_its_start_its_progress_and_its_end_on_the_workers_thread(worker):
    running = worker()
    heard, _ = start(running, 2, steps=7, progress_every=3)
    samples = heard.end.samples
    begun, *progress, end = heard.events
    assert isinstance(begun, Started)
    assert [(event.step, event.total) for event in progress] == [(3, 7), (6, 7), (7, 7)]
    assert all(event.images.tolist() == [0, 1] for event in progress)
    torch.testing.assert_close(progress[-1].denoised, samples, rtol=1e-4, atol=1e-4)
    assert 0 <= end.queue_seconds == begun.queue_seconds
    assert 0 < end.run_seconds < SECONDS
    assert heard.threads == {"fastdiff-obeys"}
    assert isinstance(begun, Started)
    quiet, _ = start(running, 2, steps=7)
    assert torch.equal(quiet.end.samples, samples)
    assert not any(isinstance(event, Progress) for event in quiet.events)


def test_a_full_queue_refuses_and_says_when_to_come_again(worker):
    running = worker(places=5)
    Obeys.gate.clear()
    first, _ = start(running, 3)
    second, job = start(running, 2)
    with pytest.raises(Overloaded, match="the queue is full: 5 images") as caught:
        reserved(running, 1, 4)
    assert 0 < caught.value.retry_after < job.estimate_seconds
    Obeys.gate.set()
    assert first.end.samples.shape[0] + second.end.samples.shape[0] == 5
    until(lambda: running.status().jobs == 0)
    running.cancel(reserved(running, 9, 4))  # more than all places, but nobody else is there


def test_a_reservation_holds_a_place_before_it_has_a_request(worker):
    running = worker(places=2)
    job = reserved(running, 2, 4)
    assert running.status().waiting_rows == 2
    with pytest.raises(Overloaded):
        reserved(running, 1, 4)
    running.cancel(job)
    assert running.status().jobs == 0
    heard = Heard()
    running.run(job, SAMPLER.request(2, steps=4, class_labels=1), heard)
    assert isinstance(heard.error, Cancelled)


def test_a_request_larger_than_its_reservation_is_refused(worker):
    running = worker()
    job = reserved(running, 1, 4)
    with pytest.raises(InvalidArgument, match="reserved 1 images of 4 steps, got 2 of 4"):
        running.run(job, SAMPLER.request(2, steps=4, class_labels=1), Heard())
    with pytest.raises(InvalidArgument, match="got 1 of 5"):
        running.run(job, SAMPLER.request(1, steps=5, class_labels=1), Heard())
    running.run(job, SAMPLER.request(1, steps=4, class_labels=1), Heard())
    with pytest.raises(InvalidArgument, match="reserve again"):
        running.run(job, SAMPLER.request(1, steps=4, class_labels=1), Heard())


def test_a_job_has_one_place_and_is_not_run_without_it(worker):
    running = worker()
    request = SAMPLER.request(1, steps=4, class_labels=1)
    with pytest.raises(InvalidArgument, match="no place in a queue yet"):
        running.run(Job(1, 4, SIZE), request, Heard())
    job = reserved(running, 1, 4)
    with pytest.raises(InvalidArgument, match="a job is reserved once"):
        running.reserve(job)
    running.cancel(job)
    with pytest.raises(InvalidArgument, match="at least 1 image and 1 step, got 0 and 4"):
        Job(0, 4, SIZE)


def test_a_hopeless_deadline_is_refused_at_once(worker):
    running = worker()
    with pytest.raises(DeadlineImpossible, match="the deadline is in") as caught:
        reserved(running, 1, 1000, deadline=time.monotonic() + 1e-4)
    assert caught.value.estimate_seconds > 1e-4
    heard, _ = start(running, deadline=time.monotonic() + SECONDS + 1e6)
    assert isinstance(heard.end, Finished)


def test_a_deadline_that_was_missed_meanwhile_frees_the_rows(worker):
    counts = Counts()
    running = worker(observer=counts)
    start(running, steps=9)[0].end  # noqa: B018  until the costs are known
    Obeys.gate.clear()
    Obeys.entered.clear()
    heard, _ = start(running, 2, steps=9, deadline=time.monotonic() + 0.5)
    assert Obeys.entered.wait(SECONDS)
    other, _ = start(running, 1, steps=5)
    time.sleep(0.6)
    Obeys.gate.set()
    with pytest.raises(Cancelled, match="the deadline cannot be met any more"):
        raise heard.error
    assert isinstance(other.end, Finished)
    assert counts.waste == [(2, "deadline")]


def test_cancelled_jobs_free_their_rows_at_the_next_step(worker):
    counts = Counts()
    running = worker(observer=counts, limit=2)
    Obeys.gate.clear()
    first, job = start(running, 2, steps=9)
    assert Obeys.entered.wait(SECONDS)
    second, waiting = start(running, 2, steps=9)
    third, _ = start(running, 2, steps=3)
    for each in (job, waiting, job):
        running.cancel(each)
    Obeys.gate.set()
    assert isinstance(first.error, Cancelled)
    assert isinstance(second.error, Cancelled)
    assert isinstance(third.end, Finished)
    assert [type(event) for event in first.events] == [Started, Failed]
    assert counts.waste == [(2, "cancelled")]
    assert sum(counts.rows) == 2 + 2 * 3


def test_a_non_finite_output_fails_its_own_job_and_names_the_step(worker):
    counts = Counts()
    running = worker(observer=counts)
    Obeys.gate.clear()
    bad, _ = start(running, 1, steps=7, label=2)
    good, _ = start(running, 1, steps=7, label=1)
    Obeys.gate.set()
    assert isinstance(bad.error, NonFiniteOutput)
    assert (bad.error.step, bad.error.total) == (3, 7)
    expected = SAMPLER.sample(1, steps=7, seed=7, class_labels=1)
    assert torch.equal(good.end.samples, expected)
    assert (counts.bad, counts.rebuilds, counts.waste) == (1, 0, [(4, "failed")])


def test_a_crash_fails_those_in_the_step_and_the_rest_starts_again_with_the_same_bits(worker):
    """Of three long jobs one row has begun and is paused when a short one breaks the engine."""
    counts = Counts()
    running = worker(observer=counts, limit=1, policy=Policy("shortest-remaining"), patience=1e6)
    Obeys.gate.clear()
    long = [start(running, 1, steps=9, seed=seed)[0] for seed in range(3)]
    assert Obeys.entered.wait(SECONDS)
    Obeys.armed = 1
    broken, _ = start(running, 1, steps=2, label=3)
    Obeys.gate.set()
    with pytest.raises(RuntimeError, match="planted failure"):
        raise broken.error
    for seed, heard in enumerate(long):
        expected = SAMPLER.sample(1, steps=9, seed=seed, class_labels=1)
        assert torch.equal(heard.end.samples, expected)
        assert [type(event) for event in heard.events] == [Started, Finished]
    assert counts.rebuilds == 1
    assert counts.waste == [(1, "failed")]
    assert running.status().state == "ready"


def test_a_worker_stops_after_three_crashes_and_fails_what_it_has(worker):
    running = worker(limit=1)
    Obeys.gate.clear()
    broken = [start(running, 1, steps=2, label=3)[0] for _ in range(3)]
    job = reserved(running, 1, 4)
    other, _ = start(running, 1, steps=9)
    Obeys.armed = 3
    Obeys.gate.set()
    for heard in broken:
        assert isinstance(heard.error, RuntimeError)
    with pytest.raises(Unavailable, match="has stopped: planted failure"):
        raise other.error
    until(lambda: running.status().state == "stopped")
    with pytest.raises(Unavailable, match="its worker is stopped"):
        reserved(running, 1, 4)
    late = Heard()
    running.run(job, SAMPLER.request(1, steps=4, class_labels=1), late)
    assert isinstance(late.error, Unavailable)


def test_two_crashes_with_a_finished_job_between_them_stop_nobody(worker):
    running = worker()
    for _ in range(4):
        Obeys.armed = 1
        assert isinstance(start(running, label=3)[0].error, RuntimeError)
        assert isinstance(start(running)[0].end, Finished)
    assert running.status().state == "ready"


def test_a_listener_that_raises_hurts_nobody(worker, caplog):
    running = worker()

    def rude(event):
        raise ValueError("rude")

    job = reserved(running, 1, 3)
    running.run(job, SAMPLER.request(1, steps=3, class_labels=1), rude, progress_every=1)
    assert isinstance(start(running)[0].end, Finished)
    until(lambda: running.status().jobs == 0)
    assert "the listener of a job raised" in caplog.text


def test_draining_lets_those_finish_who_are_there(worker):
    running = worker()
    Obeys.gate.clear()
    heard, _ = start(running)
    running.drain()
    assert running.status().state == "draining"
    with pytest.raises(Unavailable, match="its worker is draining"):
        reserved(running, 1, 4)
    Obeys.gate.set()
    assert isinstance(heard.end, Finished)


def test_closing_ends_every_job_once(worker):
    running = worker(limit=1)
    Obeys.gate.clear()
    heard = [start(running, 1, steps=5)[0] for _ in range(3)]
    closing = threading.Thread(target=running.close)
    closing.start()
    until(lambda: running.status().state == "stopped")
    Obeys.gate.set()
    closing.join(SECONDS)
    for each in heard:
        assert isinstance(each.error, Cancelled)
        assert sum(isinstance(event, (Failed, Finished)) for event in each.events) == 1


def test_sizes_take_steps_of_their_own(worker):
    wide = eager_sampler(Network(Sized(), (1, 2, 4), {}, "sized"), batch=2)
    tall = eager_sampler(Network(Sized(), (1, 4, 2), {}, "sized"), batch=2)
    counts = Counts()
    running = worker([wide, tall], observer=counts)
    heard = {}
    for sampler, size in ((tall, (4, 2)), (wide, (2, 4))):
        heard[size] = Heard()
        job = reserved(running, 2, 3, size)
        running.run(job, sampler.request(2, steps=3, seed=1), heard[size])
    assert torch.equal(heard[2, 4].end.samples, wide.sample(2, steps=3, seed=1))
    assert torch.equal(heard[4, 2].end.samples, tall.sample(2, steps=3, seed=1))
    with pytest.raises(InvalidArgument, match=r"size: expected one of 2x4, 4x2 .* got \(3, 3\)"):
        reserved(running, 1, 3, (3, 3))


class Sized(torch.nn.Module):
    def forward(self, x, t):
        return torch.tanh(x) * torch.cos(0.01 * t)[:, None, None, None]


def test_status_counts_rows_and_learns_what_steps_cost(worker):
    running = worker(limit=2)
    Obeys.gate.clear()
    ends = [start(running, 2, steps=3)[0] for _ in range(3)]
    assert Obeys.entered.wait(SECONDS)
    status = running.status()
    assert (status.waiting_rows, status.jobs) == (6, 3)
    Obeys.gate.set()
    for heard in ends:
        assert isinstance(heard.end, Finished)
    until(lambda: running.status().running_rows == 0)
    status = running.status()
    assert (status.waiting_rows, status.jobs) == (0, 0)
    assert status.row_steps_per_second == 2 * status.steps_per_second > 0
    assert list(status.step_seconds) == [2]
    assert 0 < status.step_seconds[2] < SECONDS
