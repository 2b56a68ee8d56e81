"""The Python client, in front of the real HTTP application or of scripted answers."""

import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
import torch
from serving import FakeWorker, digits_service, fake_service, running, until

from fastdiff.errors import (
    Cancelled,
    DeadlineImpossible,
    FastdiffError,
    InvalidArgument,
    ModelOutputError,
    NonFiniteOutput,
    Overloaded,
    SamplingError,
    Unavailable,
)
from fastdiff.serving import Client
from fastdiff.serving.answers import retry_after
from fastdiff.serving.events import Failed, Finished
from fastdiff.serving.service import Settings


@pytest.fixture(scope="module")
def worker():
    return FakeWorker(sample_shape=(3, 5, 7))


@pytest.fixture(scope="module")
def url(worker):
    with running(fake_service(worker)) as url:
        yield url


@pytest.fixture
def client(url):
    with Client(url, retries=0) as client:
        yield client


def scripted(*answers, retries=3):
    """Return a client that gets `answers`, one after the other, and the requests it sends."""
    sent = []

    def answer(request):
        sent.append(request)
        given = answers[len(sent) - 1]
        if isinstance(given, Exception):
            raise given
        status, headers, body = given
        return httpx.Response(status, headers=headers, json=body)

    return Client(transport=httpx.MockTransport(answer), retries=retries), sent


@pytest.fixture
def waits(monkeypatch):
    """Let nobody sleep; return how long each would have."""
    waits = []
    monkeypatch.setattr("fastdiff.serving.client.time.sleep", waits.append)
    return waits


def fault(status, code=None, **headers):
    body = {"error": {"message": "said by the server", "code": code, "param": None}}
    return status, {k.replace("_", "-"): v for k, v in headers.items()}, body


def test_generate_asks_for_what_it_is_told_and_returns_the_images(client, worker):
    generation = client.generate(
        "7", n=3, steps=13, solver="dpmpp_2m", guidance_scale=2.0, seed=2**64 - 1
    )
    job = worker.seen[-1]
    assert (job.rows, job.steps, job.guided) == (3, 13, True)
    assert job.request.seeds.tolist() == [2**64 - 1] * 3
    assert job.request.conditioning["class_labels"].tolist() == [7, 7, 7]
    assert generation.seeds == [(2**64 - 1, 0), (2**64 - 1, 1), (2**64 - 1, 2)]
    assert np.array_equal(generation.arrays(), np.full((3, 5, 7, 3), 128, np.uint8))
    assert (generation.steps, generation.backend) == (13, "eager float32")
    assert (generation.queue_seconds, generation.run_seconds) == (0.25, 0.5)


def test_images_are_the_same_alone_and_in_company():
    """Four clients, one after the other and all at once, each with steps and a seed of its own."""

    def ask(steps):
        with Client(url) as client:
            return client.generate("7", n=2, steps=steps, seed=steps)

    with digits_service() as service, running(service) as url, ThreadPoolExecutor() as pool:
        alone = [ask(steps) for steps in (3, 5, 8, 12)]
        together = list(pool.map(ask, (3, 5, 8, 12)))
    for one, other in zip(alone, together, strict=True):
        assert (other.steps, other.seeds) == (one.steps, [(one.steps, 0), (one.steps, 1)])
        error = other.arrays().astype(int) - one.arrays()
        assert np.abs(error).max() <= 1  # rows that share a batch may round differently
        assert one.arrays().std() > 30  # a digit, not a grey field


def test_class_labels_and_seeds_go_one_to_each_image(client, worker):
    generation = client.generate(n=2, class_labels=[3, 8], seed=[5, 6], eta=0.5, size=(8, 8))
    request = worker.seen[-1].request
    assert request.conditioning["class_labels"].tolist() == [3, 8]
    assert generation.seeds == [(5, 0), (6, 0)]


@pytest.fixture
def slow_worker(worker):
    """Return the worker, whose jobs do nothing until the test tells them to."""
    worker.gate.clear()
    yield worker
    worker.gate.set()


def when_it_runs(worker, act):
    """Call `act` with the next job, in a thread, as soon as it runs."""
    before = len(worker.seen)

    def wait():
        until(lambda: len(worker.seen) > before and worker.seen[-1].listener is not None)
        act(worker.seen[-1])

    threading.Thread(target=wait).start()


def test_stream_yields_estimates_and_then_the_images(client, slow_worker):
    stream = client.stream("7", n=2, steps=20, seed=4, partial_images=4)
    when_it_runs(slow_worker, lambda job: slow_worker.tell_progress(job, 4))
    frames = [next(stream), next(stream)]
    job = slow_worker.seen[-1]
    assert job.progress_every == 4
    slow_worker.tell_progress(job, 12)
    frames += [next(stream), next(stream)]
    samples = torch.linspace(-1, 1, 2).view(2, 1, 1, 1).expand(2, 3, 5, 7)
    slow_worker.end(job, Finished(samples, 0.25, 0.5))
    frames += stream
    facts = [(f.index, f.step, f.total, f.seed, f.done) for f in frames]
    assert facts == [
        (image, step, 20, (4, image), step == 20) for step in (4, 12, 20) for image in (0, 1)
    ]
    levels = [np.unique(np.asarray(frame.image)).tolist() for frame in frames]
    assert levels == [[153], [153], [204], [204], [0], [255]]


def test_stream_that_is_closed_frees_the_rows(client, slow_worker):
    stream = client.stream(n=3, steps=9, partial_images=8)
    when_it_runs(slow_worker, lambda job: slow_worker.tell_progress(job, 2))
    assert next(stream).step == 2
    stream.close()
    job = slow_worker.seen[-1]
    until(lambda: job.cancelled and job not in slow_worker.jobs)


def test_stream_that_fails_raises_what_failed(client, slow_worker):
    error = NonFiniteOutput(step=2, total=9, image=0, timestep=500.0)
    when_it_runs(slow_worker, lambda job: slow_worker.end(job, Failed(error)))
    with pytest.raises(ModelOutputError, match="not finite at step 3 of 9"):
        list(client.stream(steps=9))


def test_wrong_parameters_are_refused_by_name(client):
    with pytest.raises(InvalidArgument, match="size: this model makes 8x8"):
        client.generate("7", size=(8, 9))
    with pytest.raises(InvalidArgument, match="stepz"):
        list(client.stream("7", stepz=3))


def test_models_and_status_are_those_of_the_server(client):
    assert client.models() == ["digits"]
    (status,) = client.status()
    assert (status["state"], status["parameters"]["num_classes"]) == ("ready", 10)


def test_key_opens_a_guarded_server(worker):
    with running(fake_service(worker, Settings(api_keys=("sesame",)))) as url:
        with Client(url, api_key="sesame") as client:
            assert client.models() == ["digits"]
        with Client(url) as client, pytest.raises(InvalidArgument, match="api_key"):
            client.models()


def test_refusals_are_retried_no_sooner_than_the_server_asks(waits):
    body = {"data": [{"id": "m"}]}
    client, sent = scripted(
        fault(429, "queue_full", Retry_After="7"),
        fault(503, "model_loading", Retry_After="2"),
        (200, {}, body),
    )
    assert client.models() == ["m"]
    assert len(sent) == 3
    assert 7 <= waits[0] <= 7 * 1.25
    assert 2 <= waits[1] <= 2 * 1.25


def test_refusal_that_stays_is_raised_with_its_time(waits):
    client, sent = scripted(*[fault(429, "queue_full", Retry_After="7")] * 3, retries=2)
    with pytest.raises(Overloaded) as caught:
        client.generate()
    assert caught.value.retry_after == 7
    assert (len(sent), len(waits)) == (3, 2)


def test_refusal_for_longer_than_the_clients_patience_is_raised_at_once(waits):
    client, sent = scripted(fault(429, "queue_full", Retry_After="inf"))
    with pytest.raises(Overloaded):
        client.generate()
    assert (len(sent), waits) == (1, [])


def test_nobody_listening_is_retried_with_growing_waits_and_told(waits):
    client, _ = scripted(*[httpx.ConnectError("refused")] * 4)
    with pytest.raises(Unavailable, match="is the server running"):
        client.generate()
    assert all(0.25 * 2**i <= wait <= 0.25 * 2**i * 1.25 for i, wait in enumerate(waits))
    assert len(waits) == 3


@pytest.mark.parametrize(
    "answer", [httpx.ReadTimeout("slow"), fault(400), fault(500, "engine_error")]
)
def test_what_would_fail_again_or_cost_again_is_not_retried(waits, answer):
    client, sent = scripted(answer)
    with pytest.raises(FastdiffError):
        client.generate()
    assert (len(sent), waits) == (1, [])


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (fault(400), InvalidArgument),
        (fault(401), InvalidArgument),
        (fault(404), InvalidArgument),
        (fault(429, "queue_full", Retry_After="7"), Overloaded),
        (fault(429, "deadline_impossible", Retry_After="7"), DeadlineImpossible),
        (fault(500, "engine_error"), SamplingError),
        (fault(500, "non_finite_output"), ModelOutputError),
        (fault(503, "model_loading", Retry_After="2"), Unavailable),
        (fault(504, "deadline_exceeded"), Cancelled),
    ],
)
def test_answers_become_errors_of_fastdiff(answer, error):
    client, _ = scripted(answer, retries=0)
    with pytest.raises(error, match="said by the server") as caught:
        client.generate()
    assert type(caught.value) is error


def test_impossible_deadline_tells_how_long_it_would_take(client, worker):
    worker.refusal = DeadlineImpossible("too late", estimate_seconds=9.0)
    with pytest.raises(DeadlineImpossible) as caught:
        client.generate(deadline_ms=2000)
    worker.refusal = None
    assert caught.value.estimate_seconds == 9.0


def test_answer_of_somebody_elses_is_told_as_it_is():
    client = Client(
        transport=httpx.MockTransport(lambda request: httpx.Response(502, text="bad gateway"))
    )
    with pytest.raises(SamplingError, match="502: bad gateway"):
        client.generate()


@pytest.mark.parametrize("value", ["", "soon", "Wed, 21 Oct 2026 07:28:00 GMT", "-3", "nan"])
def test_retry_after_that_is_no_time_counts_as_none(value):
    assert retry_after({"Retry-After": value}) == 0
