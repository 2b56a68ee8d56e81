"""Other weights for a compiled model."""

import pytest
import torch
from networks import Mixer
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.compiling.updating import update_weights
from fastdiff.networks import skeleton
from fastdiff.sampler import Sampler

OPTIONS = {
    "sample_shape": (1, 4, 6),
    "tune": 0.01,
    "cache": False,
    "precision": "float32",
    "max_batch": 1,  # what is measured may differ, and with it the last bits
}


def mixer(seed):
    model = Mixer()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) / 4)
    return model


def images(compiled):
    z = torch.randn(2, 1, 4, 6, generator=torch.Generator().manual_seed(1))
    return Sampler(compiled).sample(latents=z, steps=4)


def test_new_weights_give_what_compiling_them_gives():
    old = fastdiff.compile(mixer(1), backend="eager", **OPTIONS)._compiled
    before = images(old)
    new = update_weights(old, mixer(2))
    expected = images(fastdiff.compile(mixer(2), backend="eager", **OPTIONS)._compiled)
    assert torch.equal(images(new), expected)
    assert torch.equal(images(old), before)
    assert new.batch_seconds == old.batch_seconds
    assert new.report.chosen.seconds == old.report.chosen.seconds
    assert torch.equal(images(update_weights(new, mixer(1).state_dict())), before)


def test_updated_model_is_saved_with_its_new_weights(tmp_path):
    old = fastdiff.compile(mixer(1), backend="onnxruntime", **OPTIONS)._compiled
    new = update_weights(old, mixer(2))
    Sampler(new).save(tmp_path / "new.fastdiff")
    loaded = fastdiff.load(tmp_path / "new.fastdiff", verify=True)._compiled
    assert torch.equal(images(loaded), images(new))
    assert not torch.allclose(images(loaded), images(old), atol=1e-2)
    with pytest.raises(errors.InvalidArgument, match="was loaded from a file, without its module"):
        update_weights(loaded, mixer(2).state_dict())


def test_weights_of_another_structure_are_refused_by_name():
    compiled = fastdiff.compile(mixer(1), backend="eager", **OPTIONS)._compiled
    with pytest.raises(
        errors.WeightsError, match=r"has \(8, 1, 3, 3\) for .inner.weight., the new"
    ):
        update_weights(compiled, nn.Conv2d(1, 8, 3))
    more = {**mixer(1).state_dict(), "extra": torch.ones(2)}
    with pytest.raises(errors.WeightsError, match=r"has nothing for 'extra', the new ones \(2,\)"):
        update_weights(compiled, more)


def test_weights_that_an_engine_cannot_bear_are_refused_and_the_old_serve_on():
    compiled = fastdiff.compile(
        mixer(1), backend="eager", **{**OPTIONS, "precision": "bfloat16"}
    )._compiled
    before = images(compiled)
    cancelling = mixer(2)
    with torch.no_grad():  # the outer weights see a small difference of large numbers
        cancelling.inner.bias += 9
        cancelling.outer.weight[:, 1::2] = -cancelling.outer.weight[:, ::2]
    with pytest.raises(
        errors.Unavailable, match=r"eager bfloat16 with the new weights: .*; compile"
    ):
        update_weights(compiled, cancelling)
    assert torch.equal(images(compiled), before)


def test_a_wrapped_model_is_recognised():
    class Wrapper(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = mixer(1)

        def forward(self, x, t):
            return self.model(x, t)

    compiled = fastdiff.compile(Wrapper(), backend="eager", **OPTIONS)._compiled
    expected = images(fastdiff.compile(mixer(2), backend="eager", **OPTIONS)._compiled)
    assert torch.equal(images(update_weights(compiled, mixer(2))), expected)


def test_skeleton_keeps_everything_but_the_memory_of_weights():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 3)
            self.tied = self.inner.weight
            self.register_buffer("table", torch.arange(3.0), persistent=False)
            self.register_buffer("count", torch.ones(1))

    module = Net().requires_grad_(False)
    bare = skeleton(module)
    assert {v.device.type for v in bare.state_dict().values()} == {"meta"}
    assert bare.tied is bare.inner.weight
    assert not bare.tied.requires_grad
    assert torch.equal(bare.table, module.table)
    assert module.inner.weight.device.type == "cpu"
