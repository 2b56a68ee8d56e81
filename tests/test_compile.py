import io
import json
import re
import sys
import warnings

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
)
from torch import nn

import fastdiff
from fastdiff import errors, progress
from fastdiff.compiler import describe
from fastdiff.exporting.metadata import conditioning_to_json
from fastdiff.progress import Stage


class Tiny(nn.Module):
    """Called as model(x, t, class_labels)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.label = nn.Embedding(4, 2)

    def forward(self, x, t, class_labels):
        return self.conv(x) + self.label(class_labels)[:, :, None, None]


def test_a_plain_module_compiles_with_every_backend():
    images = []
    for backend in ("eager", "onnxruntime"):
        sampler = fastdiff.compile(
            Tiny(),
            sample_shape=(2, 5, 4),
            num_classes=3,
            null_class=3,
            backend=backend,
            precision="float32",
        )
        assert sampler.report.chosen.backend == backend
        images.append(sampler.sample(class_labels=[0, 2], steps=5, seed=1, guidance_scale=2.0))
    assert images[0].shape == (2, 2, 5, 4)
    assert images[0].dtype == torch.float32
    torch.testing.assert_close(images[0], images[1], rtol=1e-4, atol=1e-4)


def test_schedule_is_taken_as_object_mapping_or_file(tmp_path):
    config = {"num_train_timesteps": 400, "beta_schedule": "scaled_linear", "beta_end": 0.012}
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "DDIMScheduler", **config}))
    options = {"sample_shape": (2, 5, 4), "num_classes": 4, "backend": "eager"}
    expected = fastdiff.Schedule(**config)
    peer = DDIMScheduler(**config)
    for schedule in (expected, config, path, str(path), peer):
        sampler = fastdiff.compile(Tiny(), schedule=schedule, **options)
        assert sampler.schedule.num_train_timesteps == 400
        assert sampler.schedule.alphas_cumprod[-1] == expected.alphas_cumprod[-1]


@pytest.mark.parametrize(
    "scheduler",
    [
        EDMEulerScheduler(sigma_max=40.0),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        PNDMScheduler(prediction_type="v_prediction"),
    ],
    ids=lambda scheduler: type(scheduler).__name__,
)
def test_schedule_is_taken_as_a_scheduler_of_any_process(scheduler):
    _, schedule = describe(Tiny(), scheduler, (2, 5, 4), num_classes=4)
    config = {**scheduler.config, "_class_name": type(scheduler).__name__}
    assert schedule == fastdiff.Schedule.from_config(config)


def test_a_schedule_that_is_not_told_is_assumed_aloud():
    options = {"sample_shape": (2, 5, 4), "num_classes": 4}
    with pytest.warns(errors.AssumptionWarning, match="Tiny does not .* that it predicts sample"):
        _, schedule = describe(Tiny(), prediction_type="sample", **options)
    assert schedule == fastdiff.Schedule(prediction_type="sample")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert describe(Tiny(), fastdiff.Schedule(), **options)[1] == fastdiff.Schedule()
        describe("digits")
    with pytest.raises(errors.InvalidDtype, match=r"schedule: expected a .* got int"):
        describe(Tiny(), 3, **options)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_what_is_done_and_chosen_is_said_where_somebody_looks(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    options = {
        **{"sample_shape": (2, 5, 4), "num_classes": 4, "backend": "eager"},
        **{"precision": "float32", "tune": 0.01, "cache": False},
    }
    statement = r"Tiny: eager float32, certified error \S+ of an output, \S+ of a sample\n"

    def said(stderr, **more):
        monkeypatch.setattr("sys.stderr", stderr)
        monkeypatch.setattr("sys.stdout", io.StringIO())
        sampler = fastdiff.compile(Tiny(), **options, **more)
        sampler.sample(1, class_labels=1, steps=2, progress=more.get("progress", False))
        assert sys.stdout.getvalue() == ""
        return stderr.getvalue()

    shown = said(Terminal())
    assert "measuring eager float32" in shown
    assert re.search(statement, shown)
    assert "2/2" in said(Terminal(), progress=True)
    assert said(io.StringIO()) == ""  # a pipe
    assert re.fullmatch(statement, said(io.StringIO(), progress=True))
    assert said(Terminal(), progress=False) == ""
    monkeypatch.setenv("FASTDIFF_PROGRESS", "0")
    assert said(Terminal()) == ""


def test_a_notebook_shows_one_line_that_is_written_over(monkeypatch):
    monkeypatch.setattr(progress, "_is_notebook", lambda: True)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress.compile_progress(None) as say:
        say(Stage("measuring", 1, 3))
        say(Stage("done"))
    *_, last = lines = sys.stderr.getvalue().split("\r")
    assert lines[1:3] == ["measuring, 1 of 3", "done".ljust(len(lines[1]))]
    assert (lines[3].strip(), last) == ("", "")


def test_what_is_missing_is_asked_for():
    with pytest.raises(errors.InvalidArgument, match=r"sample_shape=\(C, ...\) is needed: Tiny"):
        fastdiff.compile(Tiny())
    with pytest.raises(errors.InvalidArgument, match="null_class= needs num_classes="):
        fastdiff.compile(Tiny(), sample_shape=(2, 5, 4), null_class=3)
    with pytest.raises(errors.InvalidArgument, match="got int"):
        fastdiff.compile(3, sample_shape=(2, 5, 4))
    with pytest.raises(
        errors.UnknownName, match="unknown model 'digit'; known: ddpm-cifar10, digits"
    ):
        fastdiff.compile("digit")
    with pytest.raises(errors.UnknownName, match="unknown backend 'tvm'"):
        fastdiff.compile("digits", backend="tvm")


def test_sizes_that_no_memory_holds_are_refused_before_they_are_allocated():
    huge = {"sample_shape": (2, 10**9, 10**9)}, {"sample_shape": (2, 5, 4), "max_batch": 10**17}
    for options in huge:
        with pytest.raises(errors.InvalidArgument, match=r"images of 2 x .* would take"):
            fastdiff.compile(Tiny(), num_classes=4, backend="eager", precision="float32", **options)


def test_scalars_of_numpy_and_torch_describe_a_model_like_python_numbers():
    numbers = np.int64, torch.tensor
    for number in numbers:
        sampler = fastdiff.compile(
            Tiny(),
            sample_shape=(number(2), number(5), number(4)),
            num_classes=number(3),
            null_class=number(3),
            max_batch=number(2),
            tune=np.float32(0.01),
            backend="eager",
            precision="float32",
            cache=False,
        )
        assert sampler.network.sample_shape == (2, 5, 4)
        assert sampler.report.chosen.batch == 2
        labels = conditioning_to_json(sampler.network.conditioning["class_labels"])
        assert (labels["num_classes"], labels["null"]) == (3, 3)
        with pytest.raises(errors.InvalidArgument, match="labels from 0 to 2, got 3"):
            sampler.sample(class_labels=number(3))


def test_public_names_are_importable_and_others_are_not():
    assert set(fastdiff.__all__) <= set(dir(fastdiff))
    for name in fastdiff.__all__:
        assert getattr(fastdiff, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'transform'"):
        _ = fastdiff.transform
