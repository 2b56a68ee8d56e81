"""What a backend answers to conditioning that no trajectory meets is compared as well."""

import math

import pytest
import torch
from networks import eager_sampler
from torch import nn

from fastdiff import errors
from fastdiff.backends import get_backend
from fastdiff.compiling.certificate import LIMITS, certify
from fastdiff.compiling.trajectory import reference_trajectory
from fastdiff.exporting.metadata import conditioning_from_json, conditioning_to_json
from fastdiff.networks import Conditioning, Network
from fastdiff.sampling import Schedule


class Bounded(nn.Module):
    """Scales by a number that it keeps within bounds; a backend that lost them does not."""

    def __init__(self, low=-math.inf, high=math.inf):
        super().__init__()
        self.low, self.high = low, high

    def forward(self, x, t, scale):
        scale = scale.clamp(self.low, self.high)[:, None, None, None]
        return 0.1 * torch.sin(x + 0.1) * (3 + scale)


class Embedded(nn.Module):
    """Sinusoids of a number, as networks take sizes and times; labels besides."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.mix = nn.Linear(8, 1)
        self.labels = nn.Embedding(4, 1)

    def forward(self, x, t, scale, class_labels):
        angles = scale[:, None] * torch.exp(-torch.arange(4) * 1.5).to(scale.dtype)
        hidden = self.mix(torch.cat([angles.sin(), angles.cos()], 1)) + self.labels(class_labels)
        return x * (2 + hidden[:, :, None, None])


def network_of(module, value_range=None, **labels):
    scale = Conditioning((), torch.float32, null=0.0, value_range=value_range)
    inputs = {"scale": scale}
    if isinstance(module, Embedded):
        inputs["class_labels"] = Conditioning(num_classes=3, **labels)
    return Network(module, (1, 3, 5), inputs)


def judged(right, candidate, value_range=None, precision="float32"):
    """Return the certificate of `candidate`, which claims to be `right`."""
    eager = get_backend("eager")
    exact = eager.build(network_of(right, value_range), "float32")
    reference = reference_trajectory(network_of(right, value_range), exact, Schedule())
    denoiser = eager.build(network_of(candidate, value_range), precision)
    return certify(denoiser, reference)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "bounds", [(0.0, 1.0), (-1.0, 1.0), (-math.inf, 1.0), (-3.0, math.inf), (0.0, 50.0)]
)
def test_a_lost_bound_is_found_far_from_the_trajectory(bounds, precision):
    certificate = judged(Bounded(*bounds), Bounded(), precision=precision)
    far = "for conditioning far from zero (Conditioning(value_range=...) says what is asked)"
    assert max(certificate.far_errors) > 0.1
    assert far in certificate.refusal or "at t =" in certificate.refusal
    assert judged(Bounded(*bounds), Bounded(*bounds), precision=precision).refusal is None


def test_a_stated_range_is_compared_to_its_ends_and_no_further():
    lost = judged(Bounded(0.0, 0.8), Bounded(), (0.0, 1.0))
    assert lost.far_errors == ()
    assert max(lost.probe_errors) > 0.01
    only_there = judged(Bounded(-math.inf, 900.0), Bounded(-math.inf, 500.0), (0.0, 1000.0))
    assert only_there.refusal is not None
    assert judged(Bounded(0.0, 1.0), Bounded(), (0.0, 1.0)).refusal is None


def test_a_refusal_at_an_end_of_a_range_says_so():
    certificate = judged(Bounded(high=0.999), Bounded(), (-1.0, 1.0))
    assert certificate.refusal.endswith(
        "for null values or ends of ranges of the conditioning is over 1e-04"
    )
    assert "output for other conditioning: " in str(certificate)


def test_a_precision_is_not_blamed_for_what_a_rounding_of_the_input_does():
    """The sine of a number near 300 moves with its eighth bit: such values tell nothing."""
    certificate = judged(Embedded(), Embedded(), precision="bfloat16")
    assert certificate.refusal is None
    assert len(certificate.probe_errors) == 0  # the label has no null value
    assert all(error < 4 * LIMITS["bfloat16"].output for error in certificate.far_errors)


def test_the_null_values_of_guidance_are_compared():
    network = network_of(Embedded(), null=3)
    eager = get_backend("eager")
    reference = reference_trajectory(network, eager.build(network, "float32"), Schedule())
    forgotten = Embedded()
    with torch.no_grad():
        forgotten.labels.weight[3] = 9.0  # no label from 0 to 2 meets it
    certificate = certify(eager.build(network_of(forgotten, null=3), "float32"), reference)
    assert max(certificate.errors) == 0
    assert "for null values or ends of ranges of the conditioning" in certificate.refusal


def test_integers_are_compared_where_it_is_stated_that_they_are_asked():
    class Fitted:
        """Clips what it was not fitted to, as integers do."""

        precision = "int8"

        def __init__(self, inner):
            self.inner = inner

        def __getattr__(self, name):
            return getattr(self.inner, name)

    for value_range, refused in ((None, False), ((0.0, 9.0), True)):
        network = network_of(Bounded(), value_range)
        exact = get_backend("eager").build(network, "float32")
        reference = reference_trajectory(network, exact, Schedule())
        clipped = get_backend("eager").build(network_of(Bounded(-4.0, 4.0)), "float32")
        certificate = certify(Fitted(clipped), reference)
        assert (certificate.refusal is not None) == refused


def test_the_ends_of_a_range_are_asked_for_and_nothing_beyond_is_taken():
    sampler = eager_sampler(network_of(Embedded(), (-2.0, 7.5), null=3))
    probes = sampler._compiled.reference.probes
    assert probes.conditioning["scale"].tolist() == [0.0, 7.5, -2.0]  # the null value, and the ends
    assert probes.conditioning["class_labels"][0] == 3
    assert not probes.far.any()
    with pytest.raises(
        errors.InvalidArgument, match="scale: expected values from -2 to 7"
    ) as error:
        sampler.sample(scale=[1.0, 8.0], class_labels=0, steps=2)
    assert "got 8" in str(error.value)


@pytest.mark.parametrize("value_range", [(1.0, 1.0), (2.0, -2.0), (0.0, math.inf), (0.0, math.nan)])
def test_a_range_is_two_finite_numbers_in_order(value_range):
    with pytest.raises(errors.InvalidArgument, match=r"value_range: expected \(lowest, highest\)"):
        Conditioning((), torch.float32, value_range=value_range)


def test_a_range_is_for_floats_and_survives_json():
    with pytest.raises(errors.InvalidArgument, match="of an input of floats"):
        Conditioning(value_range=(0.0, 1.0))
    spec = Conditioning((3,), torch.float32, value_range=(-1.5, 4.0))
    assert conditioning_from_json(conditioning_to_json(spec)) == spec
    values = spec.draw((1000, 3), torch.Generator().manual_seed(0))
    assert values.min() >= -1.5
    assert values.max() <= 4.0
    assert values.std() == pytest.approx(5.5 / 12**0.5, rel=0.05)
