"""From what an operator names to an open service, and what the log says of it."""

import json
import logging
import sys

import pytest
from serving import FakeWorker, digits

import fastdiff
from fastdiff.errors import NonFiniteOutput
from fastdiff.serving.loading import ModelOptions, Source, load_models
from fastdiff.serving.logs import JsonLines
from fastdiff.serving.service import Service


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("digits", Source("digits", "digits")),
        ("a/folder", Source("folder", "a/folder")),
        ("b/v1.5.fastdiff", Source("v1.5", "b/v1.5.fastdiff")),
        ("mine=a/folder", Source("mine", "a/folder")),
    ],
)
def test_a_model_is_called_as_its_file_is_unless_told(text, source):
    assert Source.parse(text) == source


def test_models_are_opened_when_they_have_made_an_image(monkeypatch):
    asked, workers = {}, []

    def make_worker(name, samplers, *, observer):
        assert samplers == (digits(),)
        workers.append(FakeWorker(name))
        return workers[0]

    monkeypatch.setattr(fastdiff, "compile", lambda model, **given: asked.update(given) or digits())
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    service = Service(["seven"])

    load_models(
        service,
        [Source.parse("seven=digits")],
        ModelOptions("eager", batch_invariant=True),
        make_worker,
    )

    assert service.state == "ready"
    assert (asked["backend"], asked["batch_invariant"]) == ("eager", True)
    assert asked["progress"] is False  # a bar would lie between the lines of the log
    [worker] = workers
    assert [job.steps for job in worker.seen] == [4]
    assert worker.name == "seven"
    text = service.metrics.render().decode()
    assert 'fastdiff_backend_info{backend="eager float32",model="seven"} 1.0' in text


def test_a_model_that_makes_no_image_is_not_served(monkeypatch):
    def make_worker(name, samplers, *, observer):
        return FakeWorker(error=NonFiniteOutput(0, 4, 0, 999.0))

    monkeypatch.setattr(fastdiff, "compile", lambda model, **given: digits())
    service = Service(["digits"])

    with pytest.raises(NonFiniteOutput):
        load_models(service, [Source("digits", "digits")], ModelOptions(), make_worker)
    assert service.state == "loading"


def test_logs_are_lines_of_json():
    try:
        raise ValueError("a\nb")
    except ValueError:
        record = logging.LogRecord(
            "fastdiff", logging.ERROR, "", 0, "it %s", ("failed",), sys.exc_info()
        )
    record.fields = {"request_id": "7"}

    line = JsonLines().format(record)

    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["message"], entry["level"], entry["request_id"]) == ("it failed", "error", "7")
    assert entry["exception"].endswith("ValueError: a\nb")
