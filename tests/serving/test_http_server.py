"""The process around the API: how it starts, and how it stops."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import httpx
import pytest
from serving import FakeWorker, connect, fake_service, raw_request, until

from fastdiff.errors import Unavailable
from fastdiff.serving.server import listen, run_server
from fastdiff.serving.service import Service

PATH = "/v1/images/generations"

SERVER = textwrap.dedent(
    """
    import sys, threading
    sys.path[:0] = ["tests/support"]
    from serving import FakeModel, FakeWorker
    from fastdiff.serving.models import Served
    from fastdiff.serving.server import listen, run_server
    from fastdiff.serving.service import Service

    worker, service = FakeWorker(), Service(["digits"])
    worker.gate.clear()
    loading = threading.Event()

    def load():
        assert sys.stdin.readline() == "load\\n"
        service.add("digits", Served(FakeModel(), worker))
        assert sys.stdin.readline() == "play\\n"
        for job in list(worker.jobs):
            worker.play(job)

    listener = listen("127.0.0.1", 0, 5)
    print(listener.getsockname()[1], flush=True)
    sys.exit(run_server(service, load, listener, drain_seconds=20))
    """
)


@pytest.fixture
def process():
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        yield started
        started.kill()


def say(process, word):
    process.stdin.write(word + "\n")
    process.stdin.flush()


def test_a_server_answers_at_once_drains_on_sigterm_and_exits_with_0(process):
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    with httpx.Client(base_url=url, timeout=20) as client:
        until(lambda: answers(client), 30)
        assert client.get("/readyz").json() == {
            "status": "loading",
            "models": {"digits": "loading"},
        }
        response = client.post(PATH, json={})
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")

        say(process, "load")
        until(lambda: client.get("/readyz").status_code == 200)
        replies = []
        running_request = threading.Thread(
            target=lambda: replies.append(
                httpx.post(
                    url + PATH,
                    json={"seed": 3, "response_format": "url"},
                    headers={"host": "evil.example", "x-forwarded-proto": "https"},
                    timeout=20,
                )
            )
        )
        running_request.start()
        until(lambda: "requests_in_progress 1.0" in client.get("/metrics").text)

        process.send_signal(signal.SIGTERM)
        until(lambda: client.get("/readyz").json()["status"] == "draining")
        refused = client.post(PATH, json={})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "server_stopping")
        assert client.get("/healthz").status_code == 200
        assert not replies

        say(process, "play")
        running_request.join(20)
    [image] = replies[0].json()["data"]
    assert image["seed"] == 3
    assert image["url"].startswith(f"{url}/v1/images/files/")  # whatever the headers say
    assert process.wait(20) == 0


def test_a_second_signal_ends_at_once(process):
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    with httpx.Client(base_url=url, timeout=20) as client:
        until(lambda: answers(client), 30)
        say(process, "load")
        until(lambda: client.get("/readyz").status_code == 200)
        with connect(url) as connection:
            connection.sendall(raw_request({}))
            until(lambda: "requests_in_progress 1.0" in client.get("/metrics").text)
            process.send_signal(signal.SIGTERM)
            until(lambda: client.get("/readyz").json()["status"] == "draining")
            process.send_signal(signal.SIGTERM)

            assert process.wait(5) == 128 + signal.SIGTERM


def test_requests_that_outlast_the_drain_are_told():
    worker = FakeWorker()
    worker.gate.clear()
    service, listener = fake_service(worker), listen("127.0.0.1", 0, write_seconds=5)
    url, replies = f"http://127.0.0.1:{listener.getsockname()[1]}", []

    def ask_and_stop():
        asking = threading.Thread(
            target=lambda: replies.append(httpx.post(url + PATH, json={}, timeout=20))
        )
        asking.start()
        until(lambda: worker.seen and worker.seen[0].listener)
        os.kill(os.getpid(), signal.SIGTERM)
        asking.join()

    stopping = threading.Thread(target=ask_and_stop)
    stopping.start()
    with listener:
        code = run_server(service, lambda: None, listener, drain_seconds=0.05)
    stopping.join()

    [reply] = replies
    assert (code, reply.status_code) == (0, 503)
    assert reply.json()["error"]["code"] == "server_stopping"
    assert worker.seen[0].cancelled


@pytest.mark.parametrize(
    ("error", "traced"),
    [
        (Unavailable("no backend runs it"), False),
        (FileNotFoundError(2, "No such file", "a.fastdiff"), False),
        (ZeroDivisionError("a bug"), True),
    ],
)
def test_a_server_whose_model_cannot_be_loaded_says_why_and_ends_with_1(caplog, error, traced):
    def load():
        raise error

    with listen("127.0.0.1", 0, write_seconds=5) as listener:
        assert run_server(Service(["digits"]), load, listener, drain_seconds=5) == 1

    [record] = [record for record in caplog.records if record.levelname == "CRITICAL"]
    assert record.getMessage() == f"a model cannot be served: {error}"
    assert (record.exc_info is not None) == traced


def test_a_signal_while_models_load_ends_the_process_with_0(monkeypatch):
    class Exited(BaseException):
        """In the place of the end of the process."""

    def leave(code):
        raise Exited(code)

    monkeypatch.setattr(os, "_exit", leave)
    loading = threading.Event()
    with listen("127.0.0.1", 0, write_seconds=5) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

        def load():
            with httpx.Client(base_url=url) as client:
                until(lambda: answers(client))
            os.kill(os.getpid(), signal.SIGTERM)
            loading.wait(20)

        with pytest.raises(Exited) as exited:
            run_server(Service(["digits"]), load, listener, drain_seconds=5)
    loading.set()
    assert exited.value.args == (0,)


def answers(client):
    try:
        return client.get("/healthz").status_code == 200
    except httpx.TransportError:
        time.sleep(0.02)
        return False
