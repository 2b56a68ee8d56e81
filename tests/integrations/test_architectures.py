"""Published models by name."""

import diffusers
import huggingface_hub
import pytest
import torch
from diffusers_models import unet2d

from fastdiff import Schedule, errors
from fastdiff.compiler import describe
from fastdiff.integrations import MODEL_NAMES, cached_weights, named_model
from fastdiff.integrations.architectures import ARCHITECTURES, Architecture

pytestmark = pytest.mark.peer

PARAMETERS = {
    "ddpm-cifar10": 35_746_307,
    "dit-s2": 39_805_088,
    "dit-xl2": 749_826_464,
    "sd15-unet": 859_520_964,
}
SHAPES = {
    "ddpm-cifar10": (3, 32, 32),
    "dit-s2": (4, 32, 32),
    "dit-xl2": (4, 32, 32),
    "sd15-unet": (4, 64, 64),
}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """An architecture that is quickly built, and an empty cache."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    config = {k: v for k, v in unet2d().config.items() if not k.startswith("_")}
    architecture = Architecture(
        "UNet2DModel", config, {"beta_end": 0.03}, ("nobody/absent", "someone/tiny"), "unet"
    )
    monkeypatch.setitem(ARCHITECTURES, "tiny", architecture)
    monkeypatch.setattr("fastdiff.integrations.describing.MODEL_NAMES", ("tiny",))
    return tmp_path


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architecture_has_the_published_number_of_parameters(name):
    architecture = ARCHITECTURES[name]
    with torch.device("meta"):
        model = getattr(diffusers, architecture.class_name)(**architecture.config)
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    shape = (model.config.in_channels, model.config.sample_size, model.config.sample_size)
    assert shape == SHAPES[name]


def test_schedules_are_those_of_the_repositories():
    schedules = {name: Schedule.from_config(a.schedule) for name, a in ARCHITECTURES.items()}
    last = {name: s.alphas_cumprod[-1] for name, s in schedules.items()}
    assert last["ddpm-cifar10"] == last["dit-s2"] == pytest.approx(4.0358e-5, rel=1e-4)
    assert last["sd15-unet"] == pytest.approx(0.0046600, rel=1e-4)
    assert schedules["ddpm-cifar10"].variance_type == "fixed_large"
    assert schedules["dit-xl2"].variance_type == "learned_range"
    assert [s.clip_sample for s in schedules.values()] == [True, False, False, False]
    assert schedules["sd15-unet"].steps_offset == 1


def test_random_weights_have_the_same_bits_and_disturb_nobody(tiny):
    before = torch.get_rng_state()
    one, schedule = named_model("tiny")
    assert torch.equal(torch.get_rng_state(), before)
    torch.randn(7)
    other, _ = named_model("tiny")
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert schedule == {"beta_end": 0.03}
    assert not one.training


def test_random_weights_are_announced(tiny):
    with pytest.warns(UserWarning, match="tiny has random weights, .*: it .* samples are noise"):
        network, schedule = describe("tiny")
    assert network.name == "tiny (random weights)"
    assert schedule.beta_end == 0.03


def test_weights_in_the_cache_are_taken(tiny):
    model = unet2d()
    with torch.no_grad():
        model.conv_in.weight.add_(1)
    repository = tiny / "models--someone--tiny"
    model.save_pretrained(repository / "snapshots" / "c0ffee" / "unet")
    assert cached_weights("tiny") is None
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("c0ffee")
    assert cached_weights("tiny") == repository / "snapshots" / "c0ffee" / "unet"
    network, _ = describe("tiny")
    assert network.name == "tiny"
    assert torch.equal(network.module.model.conv_in.weight, model.conv_in.weight)


def test_random_dit_answers_to_all_its_inputs_along_a_trajectory():
    """A network that ignored an input, or exploded, would make measurements of it meaningless."""
    with pytest.warns(UserWarning, match="random weights"):
        network, _ = describe("dit-s2")
    x, t, labels = network.example(1)
    with torch.inference_mode():
        output = network.module(x, t, **labels)
        changes = [
            network.module(x, t, class_labels=labels["class_labels"] + 1),
            network.module(x, t + 100, **labels),
            network.module(x.flip(3), t, **labels),
            network.module(x * 60, t, **labels),  # where its DDIM trajectories end
        ]
    assert output.shape == (1, 8, 32, 32)
    for other in changes:
        assert 0.05 < (other - output).norm() / output.norm() < 2
        assert 0.1 < other.std() < 2


def test_names_are_known_and_others_are_not():
    assert MODEL_NAMES == ("digits", "ddpm-cifar10", "dit-s2", "dit-xl2", "sd15-unet")
    model, schedule = named_model("digits")
    assert sum(p.numel() for p in model.parameters()) == 314_753
    assert schedule["prediction_type"] == "epsilon"
    with pytest.raises(errors.UnknownName, match="'dit'; known: ddpm-cifar10, digits, dit-s2"):
        named_model("dit")
