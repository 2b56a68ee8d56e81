import collections
import errno
import functools
import importlib
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.compiling import CompileOptions
from fastdiff.integrations import from_diffusers
from fastdiff.networks import Network
from fastdiff.sampling import Schedule
from fastdiff.storing import Cache, cache, cache_key, recalling
from fastdiff.storing.signing import sign


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
    return cache_key(
        Network(module, shape, name="m"), schedule or Schedule(), choices or CompileOptions()
    )


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
        key(Scaled(), choices=CompileOptions(backend="eager")),
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
    tune = recalling.tune
    monkeypatch.setattr(recalling, "tune", lambda *args: pytest.fail("compiled again"))
    again = fastdiff.compile(Scaled(), **options)
    assert torch.equal(again.sample(2, seed=1, steps=3), expected)
    assert len(Cache().entries()) == 1

    calls = []
    monkeypatch.setattr(recalling, "tune", lambda *args: (calls.append(1), tune(*args))[1])
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


def test_what_a_key_could_overlook_counts():
    """Modules in plain lists, states that Python does not see, the order of a dict."""

    def holding(value):
        return changed(lambda m: setattr(m, "held", value))

    def linear(bias):
        module = nn.Linear(2, 2)
        with torch.no_grad():
            module.weight.zero_()
            module.bias.fill_(bias)
        return module

    values = [
        [linear(1.0)],
        [linear(2.0)],
        random.Random(1),  # noqa: S311
        random.Random(2),  # noqa: S311
        torch.Generator().manual_seed(1),
        torch.Generator().manual_seed(2),
        np.ones(3),
        np.ones(3, np.float32),
        functools.partial(torch.add, alpha=1),
        functools.partial(torch.add, alpha=2),
        collections.deque([1]),
        collections.deque([2]),
        nn.LayerNorm,
        {"a": 1, "b": 2},
        {"b": 2, "a": 1},  # a forward may depend on the order
    ]
    keys = [key(holding(value)) for value in values]
    assert None not in keys
    assert len(set(keys)) == len(values)
    assert [key(holding(value)) for value in values] == keys
    assert key(holding(torch.zeros(1).add)) is None


def test_a_change_of_what_a_class_calls_is_another_model(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "__init__.py").write_text("from .functions import scaled\n")
    (tmp_path / "layers" / "functions.py").write_text("def scaled(x):\n    return x * 2\n")
    (tmp_path / "bases.py").write_text(
        "from torch import nn\nclass Base(nn.Module):\n    gain = 1\n"
    )
    text = "from bases import Base\nfrom layers import scaled\nclass Own(Base):\n"
    (tmp_path / "own.py").write_text(
        f"{text}    def forward(self, x, t):\n        return scaled(x)\n"
    )
    own = importlib.import_module("own")
    keys = [key(own.Own())]
    for name in ("layers/functions.py", "bases.py", "own.py"):
        with (tmp_path / name).open("a") as file:
            file.write("# changed\n")
        keys.append(key(own.Own()))
    assert len(set(keys)) == 4
    assert None not in keys


def test_neither_mode_nor_notes_of_a_library_are_another_model():
    noted = {"_use_default_values": ["a", "b"], "_name_or_path": "/here", "width": 3}
    others = {"_use_default_values": ["b", "a"], "_name_or_path": "/there", "width": 3}
    one, two = (changed(lambda m, v=v: setattr(m, "config", v)) for v in (noted, others))
    assert key(one) == key(two.eval())
    assert key(one) != key(changed(lambda m: setattr(m, "config", {"width": 4})))


def keys_of_diffusers():
    """Keys of models whose configuration, and one attribute, depend on the order of sets."""
    import diffusers_models

    keys = []
    for make in (diffusers_models.unet2d, diffusers_models.unet2d_condition):
        model = make()
        model.labels = {functools.partial(max, {"all", name}) for name in ("cat", "dog", "boat")}
        keys.append(cache_key(from_diffusers(model), Schedule(), CompileOptions()))
    return keys


def test_a_process_with_another_hash_seed_finds_the_same_keys():
    environment = os.environ | {"PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    program = "import tests.storing.test_cache as test; print(*test.keys_of_diffusers())"
    answer = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    keys = keys_of_diffusers()
    assert answer.stdout.split() == keys
    assert len(set(keys)) == 2


def test_without_a_folder_to_write_everything_works_and_one_warning_says_so(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path / "file" / "cache"))
    options = {"schedule": Schedule(), "sample_shape": (1, 4, 4), "backend": "eager", "tune": 0.001}
    with pytest.warns(errors.CacheWarning, match="file/cache cannot be .* FASTDIFF_CACHE") as seen:
        sampler = fastdiff.compile(Scaled(), **options)
    assert len(seen) == 1
    assert sampler.sample(1, steps=1).shape == (1, 1, 4, 4)
    assert Cache().entries() == []
    sampler.save(tmp_path / "saved.fastdiff")
    assert sign("content") == ""

    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path / "cache"))

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(recalling, "save_artifact", full)
    with pytest.warns(errors.CacheWarning, match="No space left on device") as seen:
        fastdiff.compile(Scaled(), **options)
    assert len(seen) == 1


def test_what_is_there_is_taken_from_a_folder_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    options = {"sample_shape": (1, 4, 4), "backend": "eager", "tune": 0.001}
    first = fastdiff.compile(Scaled(), **options).sample(1, steps=2, seed=0)

    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for module, name in ((os, "utime"), (cache, "FileLock"), (recalling, "save_artifact")):
        monkeypatch.setattr(module, name, read_only)
    assert torch.equal(fastdiff.compile(Scaled(), **options).sample(1, steps=2, seed=0), first)
    with pytest.warns(errors.CacheWarning, match="Read-only file system"):
        fastdiff.compile(Scaled(scale=2.0), **options)


def test_a_user_without_a_home_has_nowhere_to_keep_things(monkeypatch):
    for name in ("FASTDIFF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert Cache().entries() == []
    with pytest.warns(errors.CacheWarning), Cache().lock("key"):
        pass
