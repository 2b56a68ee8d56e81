"""The native backend in 8-bit integers: certified, kept, and with ranges that it observed."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

import fastdiff
from fastdiff import kernels
from fastdiff._native import NetworkPlan
from fastdiff.backends import BACKENDS, native, reference_denoiser
from fastdiff.compiling.calibration import with_samples
from fastdiff.errors import AccuracyWarning, Unavailable
from fastdiff.integrations.describing import describe
from fastdiff.native import Algorithm


def integers_everywhere(plan, *args):
    """Choose integers for all convolutions of an image but the last."""
    inner = [n for n in plan.convolutions[:-1] if n.x.shape[-1] >= 32 and n.x.shape[0] > 1]
    return {node.name: Algorithm("int8") for node in inner}


needs_int8 = pytest.mark.skipif(
    NetworkPlan(kernels.active_level()).int8_math == native.PLAIN_TILES,
    reason="this level has no instructions for int8: native refuses it there",
)


@pytest.fixture(scope="module")
def integers():
    """The digits model in integers; verify="warn" as choosing by speed would leave it exact."""
    options = {"precision": "int8", "tune": 0.01, "cache": False, "verify": "warn"}
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        patch.setattr(native, "choose", integers_everywhere)
        warnings.simplefilter("ignore", AccuracyWarning)
        return fastdiff.compile("digits", backend="native", **options)


@needs_int8
def test_integers_are_certified_saved_and_loaded(integers, tmp_path):
    chosen = integers.report.chosen
    assert (chosen.backend, chosen.precision) == ("native", "int8")
    assert 1e-3 < chosen.certificate.sample_error < 5e-2
    integers.save(tmp_path / "integers.fastdiff")
    again = fastdiff.load(tmp_path / "integers.fastdiff")
    options = {"class_labels": [3, 8], "seed": [1, 2], "steps": 3}
    assert torch.equal(again.sample(**options), integers.sample(**options))


@pytest.mark.filterwarnings("ignore::fastdiff.errors.AccuracyWarning")
@needs_int8
def test_new_weights_have_ranges_of_their_own(integers, monkeypatch):
    monkeypatch.setattr(native, "choose", integers_everywhere)
    options = {"class_labels": [3, 8], "seed": [1, 2], "steps": 3}
    before = integers.sample(**options)
    network, _ = describe("digits")
    integers.update_weights(network.module)
    torch.testing.assert_close(integers.sample(**options), before, rtol=0, atol=1e-6)


def test_ranges_are_those_that_the_modules_meet():
    network, schedule = describe("digits")
    network = with_samples(network, reference_denoiser(network), schedule)
    met = {}

    def look(name):
        def hook(module, inputs):
            x = inputs[0].numpy()
            low, high = met.get(name, (0, 0))
            met[name] = np.minimum(low, x.min((0, 2, 3))), np.maximum(high, x.max((0, 2, 3)))

        return hook

    convolutions = {
        name: module for name, module in network.module.named_modules()
        if isinstance(module, nn.Conv2d)
    }  # fmt: skip
    hooks = [m.register_forward_pre_hook(look(name)) for name, m in convolutions.items()]
    with torch.no_grad():
        for x, t, conditioning in network.samples:
            network.module(x, t, **conditioning)
    for hook in hooks:
        hook.remove()

    ranges = native._observed(native.plan_network(network), network, "portable", 1)

    assert len(met) >= 5
    assert set(met) <= set(ranges)
    for name, ends in met.items():
        np.testing.assert_allclose(ranges[name], np.stack(ends), rtol=1e-4, atol=1e-5)


@needs_int8
def test_integers_without_samples_are_refused():
    with pytest.raises(Unavailable, match=r"compile\(model, precision='int8'\) does that"):
        BACKENDS["native"].build(describe("digits")[0], "int8")
    with kernels.use_level("portable"), pytest.raises(Unavailable, match="int8 only on CPUs with"):
        BACKENDS["native"].build(describe("digits")[0], "int8")
