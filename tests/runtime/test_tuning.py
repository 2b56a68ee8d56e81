import dataclasses

import pytest
import torch
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.denoisers import get_engine
from fastdiff.exporting import Network
from fastdiff.runtime import Choices
from fastdiff.runtime.certificate import certify, reference_trajectory
from fastdiff.runtime.tuning import tune
from fastdiff.sampling import Schedule


class Mixer(nn.Module):
    """A few layers, exact enough in float32 and worse in bfloat16."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Conv2d(1, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 1, 3, padding=1)
        self.scale = scale

    def forward(self, x, t):
        hidden = torch.tanh(self.inner(x) + (t / 1000)[:, None, None, None].to(x.dtype))
        # A difference of large numbers: bfloat16's 8 bits lose it, float32's 24 do not.
        return self.outer((hidden + self.scale) - self.scale)


def network(scale=1.0):
    return Network(Mixer(scale), (1, 6, 6), name="mixer")


def biased(offset):
    """Build the model with an error planted in its output."""
    net = network()
    net.module.outer.bias.data += offset
    return get_engine("eager").build(net, "float32")


def test_certificate_separates_the_precise_from_the_broken():
    fine, cancelling = network(), network(scale=300.0)
    for net, passes in ((fine, True), (cancelling, False)):
        eager = get_engine("eager")
        reference = eager.build(net, "float32")
        expected = reference_trajectory(net, reference, Schedule())
        assert len(expected.outputs) == 8
        same = certify(reference, expected)
        assert same.error == same.sample_error == 0
        assert same.refusal is None
        rounded = certify(eager.build(net, "bfloat16"), expected)
        assert (rounded.refusal is None) is passes
        assert (rounded.error <= rounded.output_threshold) is passes
        assert len(rounded.errors) == 8


def test_certificate_judges_the_sample_as_well_as_the_outputs():
    net = network()
    reference = get_engine("eager").build(net, "float32")
    expected = reference_trajectory(net, reference, Schedule())
    certificate = certify(biased(1e-5), expected)
    assert 0 < certificate.error < certificate.output_threshold
    assert 0 < certificate.sample_error < certificate.sample_threshold
    assert certificate.refusal is None
    strict = dataclasses.replace(certificate, sample_threshold=certificate.sample_error / 2)
    assert "sample error" in strict.refusal


def test_certificate_refuses_what_is_not_finite():
    net = network()
    eager = get_engine("eager")
    reference = eager.build(net, "float32")
    expected = reference_trajectory(net, reference, Schedule())
    assert certify(biased(torch.nan), expected).refusal == "its output is not finite"


def test_refused_candidates_stand_in_the_report_with_their_reason():
    sampler = fastdiff.compile(network(scale=300.0).module, sample_shape=(1, 6, 6))
    refused = [c for c in sampler.report.candidates if c.refusal]
    reasons = {(c.engine, c.precision): c.refusal for c in refused}
    assert reasons["eager", "bfloat16"].startswith("output error")
    assert sampler.report.chosen.precision == "float32"
    text = str(sampler.report)
    assert "refused: output error" in text
    assert "chosen" in text


def test_the_chosen_one_has_the_best_measured_rate():
    compiled = tune(network(), Schedule(), Choices(precision="float32"), say=lambda text: None)
    denoiser, seconds, report = compiled.denoiser, compiled.batch_seconds, compiled.report
    measured = [c for c in report.candidates if c.seconds == c.seconds]
    assert report.chosen.rows_per_second == max(c.rows_per_second for c in measured)
    assert denoiser.engine == report.chosen.engine
    used = {c.batch: c.seconds for c in measured if c.chosen_from}
    assert seconds == used
    assert min(c.chosen_from for c in measured if c.chosen_from) == 1
    assert {c.engine for c in measured} >= {"eager", "onnxruntime"}
    assert all(c.certificate is not None for c in measured)


def test_explicit_choices_are_kept_or_raise():
    said = []
    choices = Choices("eager", "bfloat16", max_batch=3)
    compiled = tune(network(), Schedule(), choices, said.append)
    denoiser, seconds, report = compiled.denoiser, compiled.batch_seconds, compiled.report
    assert (denoiser.engine, denoiser.precision) == ("eager", "bfloat16")
    assert (list(seconds), report.chosen.batch) == ([3], 3)
    assert any("eager bfloat16" in text for text in said)
    with pytest.raises(errors.Unavailable, match="no precision 'bfloat16'; it has: float32"):
        tune(network(), Schedule(), Choices("onnxruntime", "bfloat16"), said.append)
    with pytest.raises(errors.Unavailable, match="eager bfloat16: output error"):
        tune(network(300.0), Schedule(), Choices("eager", "bfloat16"), said.append)


def test_verify_may_warn_or_look_away():
    options = {"sample_shape": (1, 6, 6), "backend": "eager", "precision": "bfloat16"}
    with pytest.warns(errors.AccuracyWarning, match="eager bfloat16 is kept although output error"):
        warned = fastdiff.compile(Mixer(300.0), verify="warn", **options)
    assert warned.report.chosen.certificate.refusal is not None
    unseen = fastdiff.compile(Mixer(300.0), verify="off", **options)
    assert unseen.report.chosen.certificate is None
    assert "chosen" in str(unseen.report)


def test_the_budget_bounds_the_measuring():
    say = lambda text: None
    quick = tune(network(), Schedule(), Choices("eager", "float32", tune=1e-6), say)
    measured = [c for c in quick.report.candidates if c.batch]
    assert [c.batch for c in measured] == [1]  # no larger size is begun after the deadline


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
        Choices(**choices)
