"""What is let through and what is refused, and with which words."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from networks import Mixer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastdiff.backends import Denoiser, get_backend
from fastdiff.compiling.certificate import (
    LIMITS,
    Certificate,
    ErrorLimits,
    certify,
)
from fastdiff.compiling.report import Candidate, Report
from fastdiff.compiling.trajectory import evaluate, reference_trajectory
from fastdiff.networks import Network
from fastdiff.sampling import Schedule, run_table


class Planted(Denoiser):
    """The float32 denoiser with `change` made to its output, at the precision it claims."""

    backend, input_dtype, output_dtype = "eager", torch.float32, torch.float32
    device = torch.device("cpu")

    def __init__(self, inner, change, precision="float32"):
        self.inner, self.change, self.precision = inner, change, precision
        self.output_channels = inner.output_channels

    def bind(self, x, t, conditioning, out):
        call = self.inner.bind(x, t, conditioning, out)
        return lambda: (call(), self.change(out, t))


@pytest.fixture(scope="module")
def network():
    return Network(Mixer(), (1, 6, 6), name="mixer")


@pytest.fixture(scope="module")
def exact(network):
    return get_backend("eager").build(network, "float32")


@pytest.fixture(scope="module")
def reference(network, exact):
    return reference_trajectory(network, exact, Schedule())


def certificate_of(scale, precision):
    network = Network(Mixer(scale), (1, 6, 6), name="mixer")
    eager = get_backend("eager")
    expected = reference_trajectory(network, eager.build(network, "float32"), Schedule())
    return certify(eager.build(network, precision), expected)


def test_reference_is_a_trajectory_of_ddim(exact, reference):
    schedule = Schedule()
    assert reference.states.shape == (9, 2, 1, 6, 6)
    assert reference.states.dtype == torch.float64
    signal = torch.tensor(schedule.alphas_cumprod[reference.table.t.astype(int)])
    for i in range(7):
        got = evaluate(exact, reference.inputs[i], reference.table.t[i], {})
        assert torch.equal(got, reference.outputs[i])
        eps, a, b = got.double(), signal[i], signal[i + 1]
        x0 = ((reference.states[i] - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
        expected = b.sqrt() * x0 + (1 - b).sqrt() * eps  # arXiv 2010.02502, eq. 12
        torch.testing.assert_close(reference.states[i + 1], expected, rtol=1e-9, atol=1e-9)


def test_a_denoiser_on_a_gpu_gets_everything_there_and_answers_on_the_host():
    """No memory is behind the tensors: only where they are, and of what kind, is computed."""
    seen, called = {}, []

    class OnGpu(Denoiser):
        device, output_channels = torch.device("cuda:0"), 1
        input_dtype, output_dtype = torch.float16, torch.float16

        def bind(self, x, t, conditioning, out):
            seen.update(conditioning, x=x, t=t, out=out)
            return lambda: called.append(len(x))

    with FakeTensorMode():
        got = evaluate(OnGpu(), torch.zeros(2, 1, 4, 4), 3.0, {"label": torch.zeros(2)})
    assert {name: value.device for name, value in seen.items()} == dict.fromkeys(
        ["label", "x", "t", "out"], torch.device("cuda:0")
    )
    assert (seen["x"].dtype, called) == (torch.float16, [2])
    assert (got.device, got.dtype) == (torch.device("cpu"), torch.float32)


def test_the_model_itself_has_no_error(exact, reference):
    certificate = certify(exact, reference)
    assert certificate.errors == certificate.max_errors == certificate.growth == (0.0,) * 8
    assert certificate.timesteps == tuple(reference.table.t)
    assert certificate.refusal is None


def test_precision_is_judged_by_its_own_limits():
    fine, cancelling = certificate_of(1.0, "bfloat16"), certificate_of(60.0, "bfloat16")
    assert fine.limits == LIMITS["bfloat16"]
    assert fine.refusal is None
    assert LIMITS["float32"].output < fine.error < LIMITS["bfloat16"].output
    assert cancelling.refusal.startswith("output error")
    assert certificate_of(60.0, "float32").refusal is None


def test_planted_errors_are_measured_exactly(exact, reference):
    def change(out, t):
        if t[0] == reference.table.t[3]:
            out.mul_(1.25)

    certificate = certify(Planted(exact, change), reference)
    assert certificate.errors == pytest.approx((0, 0, 0, 0.25, 0, 0, 0, 0), abs=1e-6)
    assert certificate.max_errors == pytest.approx((0, 0, 0, 0.25, 0, 0, 0, 0), abs=1e-6)
    assert certificate.growth[:3] == (0.0,) * 3  # nothing is wrong before the wrong step
    assert min(certificate.growth[3:]) > 1e-4  # and everything after it
    assert (
        certificate.refusal
        == f"output error 2.5e-01 at t = {reference.table.t[3]:.4g} is over 1e-04"
    )


def test_growth_is_the_error_of_the_state_after_each_step(exact, reference):
    candidate = Planted(exact, lambda out, t: out.add_(1e-3))
    growth = certify(candidate, reference).growth

    def model(x, t):
        return evaluate(candidate, torch.from_numpy(x).float(), t, {}).double().numpy()

    own = run_table(reference.table, model, reference.states[0].numpy())
    exact_states = reference.states[1:].numpy()
    expected = [
        np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(own, exact_states, strict=True)
    ]
    assert growth == pytest.approx(expected, rel=1e-9)
    assert min(growth) > 1e-4


def test_one_wrong_element_is_refused_however_large_the_image(exact):
    network = Network(Mixer(), (1, 64, 64), name="mixer")
    reference = reference_trajectory(network, exact, Schedule())

    def change(out, t):
        out[0, 0, 5, 7] += out.abs().max()

    certificate = certify(Planted(exact, change, "bfloat16"), reference)
    assert certificate.error < certificate.limits.output
    assert certificate.refusal.startswith("largest element error")


def test_a_trajectory_that_drifts_is_refused_though_its_outputs_pass(exact, reference):
    certificate = certify(Planted(exact, lambda out, t: out.add_(1e-5)), reference)
    assert certificate.refusal is None
    worst = max(certificate.growth)
    assert certificate.sample_error == certificate.growth[-1] > 0
    strict = ErrorLimits(output=1e-4, element=1e-3, state=worst / 2)
    step = certificate.growth.index(worst) + 1
    refused = dataclasses.replace(certificate, limits=strict)
    assert refused.refusal.startswith(
        f"trajectory error {worst:.1e} after step {step} of 8 is over"
    )


FAULTS = {
    "nan": (
        lambda out, t: out.view(-1)[3:4].fill_(torch.nan),
        "its output is not finite at t = 875",
    ),
    "infinite": (
        lambda out, t: out.view(-1)[:1].fill_(torch.inf),
        "its output is not finite at t =",
    ),
    "constant": (
        lambda out, t: out.fill_(0.5),
        "its output is constant, which the float32 model's",
    ),
    "a constant row": (lambda out, t: out[1].zero_(), "its output is constant, which the float32"),
    "later": (
        lambda out, t: out.fill_(torch.nan) if t[0] < 400 else None,
        "its output is not finite at t = 375",
    ),
}


@pytest.mark.parametrize("what", FAULTS)
def test_outputs_of_no_use_are_refused_with_the_reason(exact, reference, what):
    change, reason = FAULTS[what]
    certificate = certify(Planted(exact, change), reference)
    assert certificate.refusal.startswith(reason)
    assert certificate.error != certificate.error  # no number
    assert certificate.growth == ()
    assert len(certificate.errors) == len(certificate.timesteps) == (4 if what == "later" else 0)


def test_a_constant_output_is_fine_where_it_is_right():
    class Zero(nn.Module):
        def forward(self, x, t):
            return torch.zeros_like(x)

    network = Network(Zero(), (1, 3, 3), name="zero")
    exact = get_backend("eager").build(network, "float32")
    certificate = certify(exact, reference_trajectory(network, exact, Schedule()))
    assert certificate.refusal is None
    assert certificate.error == 0


def test_a_model_that_is_broken_itself_is_said_to_be(network, exact):
    broken = Planted(exact, lambda out, t: out.fill_(torch.nan))
    reference = reference_trajectory(network, broken, Schedule())
    certificate = certify(exact, reference)
    assert certificate.refusal == "the float32 model's own output is not finite at t = 875"


def test_prints_every_level_and_every_step():
    certificate = certificate_of(1.0, "bfloat16")
    heading, *levels, limits, verdict = str(certificate).splitlines()
    assert heading.split() == ["t", "output", "element", "state", "after"]
    assert [line.split()[0] for line in levels] == [f"{t:.4g}" for t in certificate.timesteps]
    assert [line.split()[3] for line in levels] == [f"{g:.1e}" for g in certificate.growth]
    assert limits.split() == ["limit", "5e-02", "2e-01", "5e-02"]
    assert verdict == "passed"
    assert (
        str(certificate_of(60.0, "bfloat16")).splitlines()[-1].startswith("refused: output error")
    )


def test_report_keeps_certificates_in_strict_json(exact, reference):
    certificates = [
        certify(exact, reference),
        certify(Planted(exact, FAULTS["later"][0]), reference),
        None,
    ]
    candidates = [Candidate("eager", "float32", certificate=c) for c in certificates]
    candidates[0] = dataclasses.replace(candidates[0], batch=2, seconds=0.5, chosen_from=1)
    report = Report("mixer", "here", candidates)
    text = json.dumps(report.to_json(), allow_nan=False)
    again = Report.from_json(json.loads(text))
    assert [c.certificate for c in again.candidates] == certificates
    assert isinstance(again.candidates[0].certificate, Certificate)
    assert str(again) == str(report)
    assert len(report.to_json()["candidates"][0]["certificate"]["growth"]) == 8
