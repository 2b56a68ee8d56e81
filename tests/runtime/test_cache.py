import os
import subprocess
import sys
import threading

import pytest
import torch
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.exporting import Network
from fastdiff.runtime import Cache, Choices, cache_key, loading
from fastdiff.sampling import Schedule


class Scaled(nn.Module):
    def __init__(self, scale=1.0, act=torch.tanh):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.scale, self.act = scale, act

    def forward(self, x, t):
        return self.act(self.conv(x)) * self.scale


class Processor:
    """A plain object with settings, as attention layers of diffusers have one."""

    def __init__(self, factor):
        self.factor = factor


class Other(Scaled):
    """The same state, another class."""


def key(module, schedule=None, choices=None, shape=(1, 4, 4)):
    return cache_key(Network(module, shape, name="m"), schedule or Schedule(), choices or Choices())


def changed(edit):
    module = Scaled()
    edit(module)
    return module


def test_key_is_the_same_for_the_same_content_only():
    base = key(Scaled())
    assert base == key(Scaled())
    assert base is not None
    with torch.no_grad():
        differing = [
            Scaled(scale=1.0001),
            Scaled(act=torch.sigmoid),
            Other(),
            changed(lambda m: m.conv.weight[0, 0, 0, 0].add_(1e-7)),
            changed(lambda m: m.conv.bias.neg_()),
            changed(lambda m: setattr(m.conv, "padding_mode", "reflect")),
            changed(lambda m: m.double()),
            changed(lambda m: m.register_buffer("extra", torch.zeros(1))),
            changed(lambda m: setattr(m, "processor", Processor(1))),
            changed(lambda m: setattr(m, "processor", Processor(2))),
        ]
    keys = {key(module) for module in differing}
    keys |= {
        key(Scaled(), Schedule(beta_end=0.021)),
        key(Scaled(), choices=Choices(backend="eager")),
        key(Scaled(), shape=(1, 4, 5)),
    }
    assert base not in keys
    assert None not in keys
    assert len(keys) == len(differing) + 3


def test_a_module_of_unknown_content_is_not_cached():
    assert key(Scaled(act=lambda x: x)) is None  # a function of somebody's own
    assert key(changed(lambda m: setattr(m, "helper", threading.Lock()))) is None
    assert key(changed(lambda m: setattr(m, "itself", Processor(m)))) is None  # without end
    assert key(changed(lambda m: m.register_forward_hook(lambda *args: None))) is None


def test_second_compile_takes_the_first_result(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    options = {"sample_shape": (1, 4, 4), "backend": "onnxruntime"}
    first = fastdiff.compile(Scaled(), **options)
    expected = first.sample(2, seed=1, steps=3)
    tune = loading.tune
    monkeypatch.setattr(loading, "tune", lambda *args: pytest.fail("compiled again"))
    again = fastdiff.compile(Scaled(), **options)
    assert torch.equal(again.sample(2, seed=1, steps=3), expected)
    assert len(Cache().entries()) == 1

    calls = []
    monkeypatch.setattr(loading, "tune", lambda *args: (calls.append(1), tune(*args))[1])
    fastdiff.compile(Scaled(), cache=False, **options)
    fastdiff.compile(Scaled(scale=2.0), **options)
    assert len(calls) == 2
    (entry,) = [e for e in Cache().entries() if e.used == min(x.used for x in Cache().entries())]
    entry.path.write_bytes(b"broken")
    sampler = fastdiff.compile(Scaled(), **options)
    assert len(calls) == 3
    torch.testing.assert_close(sampler.sample(2, seed=1, steps=3), expected, rtol=0, atol=1e-4)


def test_least_recently_used_entries_go_first(tmp_path):
    cache = Cache(tmp_path, limit_bytes=250)
    for age, name in enumerate(("new", "middle", "old", "oldest")):
        cache.path(name).write_bytes(b"x" * 100)
        os.utime(cache.path(name), (1000 - age, 1000 - age))
    assert [e.path.stem for e in cache.entries()] == ["new", "middle", "old", "oldest"]
    cache.trim()
    assert [e.path.stem for e in cache.entries()] == ["new", "middle"]
    cache.touch("middle")
    assert cache.entries()[0].path.stem == "middle"
    Cache(tmp_path, limit_bytes=1).trim()
    assert [e.path.stem for e in cache.entries()] == ["middle"]  # the newest always stays
    assert cache.clear() == 1
    assert list(tmp_path.iterdir()) == []


def test_one_process_at_a_time_holds_an_entry(tmp_path):
    cache = Cache(tmp_path)
    program = (
        "import sys; from filelock import FileLock, Timeout\n"
        "try:\n    FileLock(sys.argv[1]).acquire(timeout=0)\n"
        "except Timeout:\n    print('held')\n"
    )
    with cache.lock("k"):
        command = [sys.executable, "-c", program, str(tmp_path / "k.lock")]
        answer = subprocess.run(command, capture_output=True, text=True, check=True)
    assert answer.stdout == "held\n"


def test_a_limit_that_is_no_number_is_refused(monkeypatch):
    monkeypatch.setenv("FASTDIFF_CACHE_BYTES", "10GB")
    with pytest.raises(errors.InvalidArgument, match="expected a number of bytes, got '10GB'"):
        Cache()


def test_command_line_shows_what_was_measured_and_renews_it(monkeypatch, tmp_path, capsys):
    from fastdiff.cli import app

    def run(*arguments):
        with pytest.raises(SystemExit):
            app(["cache", *arguments])
        return capsys.readouterr().out

    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "120")
    fastdiff.compile(
        Scaled(), sample_shape=(1, 2, 2), backend="eager", precision="float32", tune=0.01
    )
    (entry,) = Cache().entries()
    listed = run("list")
    assert "Scaled" in listed
    assert entry.path.stem[:10] in listed
    assert "eager float32" in listed
    for name in ("Scaled", entry.path.stem[:4]):
        shown = run("show", name)
        assert "chosen from 1 row" in shown
        assert str(entry.path) in shown
    with pytest.raises(errors.UnknownName, match="unknown kept model 'Scale'; known: "):
        app(["cache", "renew", "Scale"])
    assert "Scaled will be measured anew" in run("renew", "Scaled")
    assert Cache().entries() == []


def test_command_line_lists_and_clears(monkeypatch, tmp_path, capsys):
    from fastdiff.cli import app

    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    Cache().path("abc").write_bytes(b"x" * 2_000_000)
    for command, expected in (
        ("list", "another version's"),
        ("list", "2.0 MB"),
        ("clear", "removed 1 models"),
        ("list", "0 models"),
    ):
        with pytest.raises(SystemExit):
            app(["cache", command])
        assert expected in capsys.readouterr().out
