"""`fastdiff serve`: from its options to a service."""

import importlib.util

import pytest
from typer.testing import CliRunner

from fastdiff.cli import app
from fastdiff.errors import InvalidArgument, Unavailable, UnknownName
from fastdiff.serving import server


def serve(*arguments, env=None):
    return CliRunner().invoke(app, ["serve", *arguments], env=env)


@pytest.fixture
def started(monkeypatch):
    """What `run_server` was called with; nothing is served."""
    calls = []
    monkeypatch.setattr(server, "run_server", lambda *arguments: calls.append(arguments) or 0)
    monkeypatch.setattr("fastdiff.serving.logs.log_json", lambda level: None)
    return calls


def test_options_reach_the_service(started, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# ours\n\nfrom-file\n")
    arguments = ["digits", "mine=a/folder", "b/model.fastdiff", "--port", "0", "--max-n", "3"]
    arguments += ["--max-queue", "7", "--policy", "deadline", "--batching", "request"]
    arguments += ["--size", "64x32", "--size", "16x16", "--size", "64x32"]
    arguments += [
        "--drain-seconds",
        "4",
        "--api-key-file",
        str(keys),
        "--cors-origin",
        "https://a.b",
        "--public-url",
        "https://c.d/e",
    ]

    result = serve(*arguments, env={"FASTDIFF_API_KEY": "from-variable another"})

    assert result.exit_code == 0, result.output
    [(service, load, listener, drain_seconds)] = started
    assert service.names == ("digits", "mine", "model")
    assert service.settings.api_keys == ("from-variable", "another", "from-file")
    assert service.settings.cors_origins == ("https://a.b",)
    assert service.settings.public_url == "https://c.d/e"
    assert service.settings.limits.max_n == 3
    assert drain_seconds == 4
    assert load.args[-2].sizes == ((64, 32), (16, 16))
    queueing = load.args[-1].keywords["queueing"]
    assert (queueing.places, queueing.policy.name, queueing.by_request) == (7, "deadline", True)
    assert listener.fileno() == -1  # closed at the end


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["digits", "--batching", "image"], UnknownName, "--batching"),
        (["digits", "--log-level", "loud"], UnknownName, "--log-level"),
        (["digits", "--policy", "random"], UnknownName, "policy"),
        (["digits", "--size", "64"], InvalidArgument, "--size: expected WIDTHxHEIGHT"),
        (["digits", "x/digits"], InvalidArgument, "differ"),
        (["=digits"], InvalidArgument, "NAME=MODEL"),
        (["digits", "--api-key", "with space "], InvalidArgument, "api_keys"),
        (["digits", "--host", "256.0.0.1"], Unavailable, "cannot listen"),
    ],
)
def test_a_wrong_option_is_told(started, arguments, error, message):
    result = serve(*arguments, "--port", "0")

    assert isinstance(result.exception, error)
    assert message in str(result.exception)
    assert not started


def test_an_empty_key_file_opens_nothing(started, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("# none yet\n")

    assert "would be open" in str(serve("digits", "--api-key-file", str(keys)).exception)
    assert not started


def test_what_is_not_installed_is_named(monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "uvicorn" else find(name)
    )

    result = serve("digits")

    assert isinstance(result.exception, Unavailable)
    assert "fastdiff-runtime[serve]" in str(result.exception)
