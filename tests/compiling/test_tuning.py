import pytest
import torch
from networks import Mixer
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.backends import BACKENDS, Denoiser
from fastdiff.compiling import CompileOptions, tuning
from fastdiff.compiling.tuning import tune
from fastdiff.networks import Network
from fastdiff.sampling import Schedule


@pytest.fixture(autouse=True)
def every_precision_is_tried(monkeypatch):
    """However busy the machine is, the networks here count as quick."""
    monkeypatch.setattr(tuning, "_QUICK_SECONDS", float("inf"))


def network(scale=1.0):
    return Network(Mixer(scale), (1, 6, 6), name="mixer")


def test_refused_candidates_stand_in_the_report_with_their_reason():
    sampler = fastdiff.compile(network(scale=60.0).module, sample_shape=(1, 6, 6))
    refused = [c for c in sampler.report.candidates if c.refusal]
    reasons = {(c.backend, c.precision): c.refusal for c in refused}
    assert reasons["eager", "bfloat16"].startswith("output error")
    assert sampler.report.chosen.precision == "float32"
    text = str(sampler.report)
    assert "refused eager bfloat16: output error" in text
    assert "chosen" in text


def test_the_chosen_one_has_the_best_measured_rate():
    compiled = tune(
        network(), Schedule(), CompileOptions(precision="float32"), say=lambda text: None
    )
    denoiser, seconds, report = compiled.denoiser, compiled.batch_seconds, compiled.report
    measured = [c for c in report.candidates if c.seconds == c.seconds]
    assert report.chosen.rows_per_second == max(c.rows_per_second for c in measured)
    assert report.chosen.backend in denoiser.backend.split(", ")
    used = {c.batch: c.seconds for c in measured if c.chosen_from}
    assert seconds == used
    assert min(c.chosen_from for c in measured if c.chosen_from) == 1
    assert {c.backend for c in measured} >= {"eager", "onnxruntime"}
    assert all(c.certificate is not None for c in measured)


def test_explicit_choices_are_kept_or_raise():
    said = []
    choices = CompileOptions("eager", "bfloat16", max_batch=3)
    compiled = tune(network(), Schedule(), choices, said.append)
    denoiser, seconds, report = compiled.denoiser, compiled.batch_seconds, compiled.report
    assert (denoiser.backend, denoiser.precision) == ("eager", "bfloat16")
    assert (list(seconds), report.chosen.batch) == ([3], 3)
    assert [str(stage) for stage in said[:2]] == [
        "reference trajectory in float32",
        "preparing eager bfloat16",
    ]
    with pytest.raises(errors.Unavailable, match="no precision 'bfloat16'; it has: float32"):
        tune(network(), Schedule(), CompileOptions("onnxruntime", "bfloat16"), said.append)
    with pytest.raises(errors.Unavailable, match="eager bfloat16: output error"):
        tune(network(60.0), Schedule(), CompileOptions("eager", "bfloat16"), said.append)


def test_verify_may_warn_or_look_away():
    options = {
        "sample_shape": (1, 6, 6),
        "backend": "eager",
        "precision": "bfloat16",
        "tune": 0.1,
    }
    with pytest.warns(errors.AccuracyWarning, match="eager bfloat16 is kept although output error"):
        warned = fastdiff.compile(Mixer(60.0), verify="warn", **options)
    assert warned.report.chosen.certificate.refusal is not None
    unseen = fastdiff.compile(Mixer(60.0), verify="off", **options)
    assert unseen.report.chosen.certificate is None
    assert "chosen" in str(unseen.report)


class Overflowing(nn.Module):
    """Sound in float32 and bfloat16; activations over 65504, which float16 has not, inside."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(2)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x, t):
        large = self.conv(x) * 1e5
        return large / (1 + large.abs().amax((1, 2, 3), keepdim=True)) + x


def test_float16_that_overflows_is_refused_and_another_precision_serves():
    sampler = fastdiff.compile(Overflowing(), sample_shape=(1, 6, 6))
    candidates = {(c.backend, c.precision): c for c in sampler.report.candidates}
    assert "its output is not finite at t = 875" in candidates["eager", "float16"].refusal
    assert sampler.report.chosen.precision in {"float32", "bfloat16"}
    assert candidates["eager", "bfloat16"].refusal is None
    assert "refused eager float16: its output is not finite" in str(sampler.report)
    assert sampler.sample(2, steps=4, seed=0).isfinite().all()
    with pytest.raises(errors.Unavailable, match="eager float16: its output is not finite"):
        fastdiff.compile(
            Overflowing(), sample_shape=(1, 6, 6), precision="float16", backend="eager"
        )


def test_float16_serves_where_it_was_asked_for_and_holds():
    options = {"sample_shape": (1, 6, 6), "backend": "eager", "tune": 0.1}
    half = fastdiff.compile(Mixer(), precision="float16", **options)
    assert half.report.chosen.precision == "float16"
    assert 1e-5 < half.report.chosen.certificate.error < 1e-2
    images = fastdiff.compile(Mixer(), precision="float32", **options).sample(2, seed=1, steps=8)
    error = (half.sample(2, seed=1, steps=8) - images).norm() / images.norm()
    assert 1e-5 < error < 1e-2


def test_precisions_in_software_are_left_to_those_who_ask(monkeypatch):
    monkeypatch.setattr(tuning, "_QUICK_SECONDS", 0.0)
    monkeypatch.setattr(tuning, "in_hardware", lambda kind, device: kind == "float32")
    compiled = tune(network(), Schedule(), CompileOptions("eager", tune=0.1), lambda stage: None)
    refused = {c.precision: c.refusal for c in compiled.report.candidates if c.refusal}
    assert set(refused) == {"bfloat16", "float16"}
    assert refused["float16"] == (
        "this CPU computes float16 in software only, which is slow; precision='float16' tries it"
    )
    asked = tune(
        network(), Schedule(), CompileOptions("eager", "float16", tune=0.1), lambda stage: None
    )
    assert asked.report.chosen.certificate.refusal is None
    monkeypatch.setattr(tuning, "in_hardware", lambda kind, device: True)
    compiled = tune(network(), Schedule(), CompileOptions("eager", tune=0.1), lambda stage: None)
    assert [c for c in compiled.report.candidates if c.refusal] == []


def test_a_network_that_cannot_be_exported_is_tried_once(monkeypatch):
    class Branches(nn.Module):
        def forward(self, x, t):
            return x if x.sum() > 0 else -x

    calls = []
    export = tuning.export_onnx
    monkeypatch.setattr(tuning, "export_onnx", lambda *a: (calls.append(1), export(*a))[1])
    branches = Network(Branches(), (1, 2, 2), name="branches")
    compiled = tune(branches, Schedule(), CompileOptions(precision="float32"), lambda stage: None)
    reasons = {c.backend: c.refusal for c in compiled.report.candidates if c.refusal}
    assert "branches cannot be exported to ONNX" in reasons["onnxruntime"]
    assert len(calls) == 1
    assert compiled.denoiser.backend == "eager"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"backend": "tvm"}, "unknown backend 'tvm'; known: auto, eager"),
        ({"precision": "fp8"}, "unknown precision 'fp8'"),
        ({"verify": "maybe"}, "unknown verify 'maybe'; known: off, strict, warn"),
        ({"tune": "slow"}, "unknown tune 'slow'; known: fast, full"),
        ({"tune": 0}, "tune: expected seconds over 0, got 0"),
        ({"max_batch": 0}, "max_batch: expected at least 1, got 0"),
        ({"max_batch": 1.5}, "max_batch: expected at least 1, got 1.5"),
    ],
)
def test_choices_that_do_not_exist_are_refused(choices, message):
    with pytest.raises(errors.InvalidArgument, match=message):
        CompileOptions(**choices)


@pytest.mark.parametrize("verify", ["strict", "off"])
@pytest.mark.parametrize("where", ["build", "bind"])
def test_an_error_inside_one_engine_is_its_refusal_with_the_traceback_in_the_log(
    monkeypatch, caplog, where, verify
):
    class Broken(Denoiser):
        backend, precision, output_channels = "native", "float32", 1
        input_dtype = output_dtype = torch.float32
        device = torch.device("cpu")

        def bind(self, *args):
            raise KeyError("dedup_17")

    def build(*args):
        if where == "build":
            raise KeyError("dedup_17")
        return Broken()

    monkeypatch.setattr(type(BACKENDS["native"]), "build", build)
    monkeypatch.setattr(tuning, "BACKENDS", {n: BACKENDS[n] for n in ("eager", "native")})
    choices = CompileOptions(precision="float32", verify=verify, tune=0.01)
    compiled = tune(network(), Schedule(), choices, lambda stage: None)
    refused = {c.backend: c.refusal for c in compiled.report.candidates if c.refusal}
    assert refused["native"] == "KeyError: 'dedup_17'"
    (record,) = [r for r in caplog.records if r.name == "fastdiff.compiling.failures"]
    assert record.getMessage() == "native float32 failed and is not used"
    assert "raise KeyError" in caplog.text
    with pytest.raises(errors.Unavailable, match="native float32: KeyError: 'dedup_17'"):
        tune(network(), Schedule(), CompileOptions("native"), lambda stage: None)


def test_what_the_user_interrupts_stays_interrupted(monkeypatch):
    def build(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(BACKENDS["eager"]), "build", build)
    with pytest.raises(KeyboardInterrupt):
        tune(network(), Schedule(), CompileOptions("eager"), lambda stage: None)
