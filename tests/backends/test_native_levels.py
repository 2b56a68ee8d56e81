"""The digits model at every level of the native backend that runs here, and in every precision.

``pytest -rP`` shows the certificates.
"""

import pytest

from fastdiff import _native
from fastdiff.backends import native, reference_denoiser
from fastdiff.compiling.calibration import with_samples
from fastdiff.compiling.certificate import certify
from fastdiff.compiling.trajectory import reference_trajectory
from fastdiff.integrations.describing import describe
from fastdiff.native import Algorithm, pack, plan_network
from fastdiff.native.nodes import Attention

LARGEST = {"float32": 1e-5, "bfloat16": 1e-2, "int8": 1e-1}
"""Errors of an output; a sample's are half of that."""


@pytest.fixture(scope="module")
def digits():
    """The network, its plan and its reference trajectory."""
    network, schedule = describe("digits")
    plain = reference_denoiser(network)
    reference = reference_trajectory(network, plain, schedule)
    network = with_samples(network, plain, schedule)
    return network, plan_network(network), reference


def choice(node, precision, last):
    """Take Winograd's algorithm, bfloat16 or integers wherever they can be taken."""
    channels, pixels = node.x.shape[-1], node.x.shape[0] * node.x.shape[1]
    if precision == "bfloat16" and channels >= 16:
        return Algorithm("tiles")
    if precision == "int8" and channels >= 32 and pixels > 1 and not last:
        return Algorithm("int8")
    winograd = precision == "float32" and node.kernel == (3, 3) and node.stride == 1
    return Algorithm("winograd4" if winograd else "direct")


@pytest.mark.parametrize("precision", list(LARGEST))
@pytest.mark.parametrize("level", list(_native.network_levels()))
def test_digits_are_as_near_as_their_precision(digits, level, precision):
    if reason := _native.network_levels()[level]:
        pytest.skip(reason)
    kernels = _native.NetworkPlan(level)
    maths = {"bfloat16": kernels.tile_math, "int8": kernels.int8_math}
    if maths.get(precision) == native.PLAIN_TILES:
        pytest.skip(f"{level} has no instructions for {precision}: native refuses it there")
    network, plan, reference = digits
    nodes = plan.convolutions
    choices = {node.name: choice(node, precision, node is nodes[-1]) for node in nodes}
    if precision == "bfloat16":
        attentions = (node for node in plan.nodes if isinstance(node, Attention))
        choices |= {node.name: Algorithm("tiles") for node in attentions}
    ranges = native._observed(plan, network, level, 1) if precision == "int8" else None
    weights = pack(plan, choices, level, 1, ranges)
    packed = native.Packed(level, plan.without_weights(), choices, weights)

    certificate = certify(native.NativeDenoiser(packed, precision, network.probe()), reference)

    print(f"{level} {precision}: {certificate.error:.1e}, sample {certificate.sample_error:.1e}")
    assert 1e-8 < certificate.error < LARGEST[precision]
    assert certificate.sample_error < 0.5 * LARGEST[precision]
