"""Denoisers of diffusers in wrappers, of derived classes, and of half precision."""

import copy

import diffusers
import pytest
import torch
from diffusers_models import dit, unet2d, unet2d_condition
from torch import nn
from torch.nn.utils import parametrize
from torch.optim.swa_utils import AveragedModel

import fastdiff
from fastdiff.integrations import from_diffusers

pytestmark = pytest.mark.peer

QUICK = {"backend": "eager", "precision": "float32", "max_batch": 2, "tune": 0.01, "cache": False}


class Derived(diffusers.UNet2DModel):
    """An average of weights, say."""


class Scaled(diffusers.UNet2DModel):
    def forward(self, sample, timestep, **options):
        (output,) = super().forward(sample, timestep, **{**options, "return_dict": False})
        return (2 * output,)


class CalledOtherwise(diffusers.UNet2DModel):
    def forward(self, x, t):
        return super().forward(x, t).sample


class OfNoModel(diffusers.AutoencoderKL):
    def forward(self, x, t):
        return x


def derive(kind):
    return lambda model: kind.from_config(model.config).eval().requires_grad_(False)


def adapted(model):
    peft = pytest.importorskip("peft", reason="has adapters")
    config = peft.LoraConfig(target_modules=["to_q"], r=2, init_lora_weights=False)
    return peft.get_peft_model(model, config).eval()


def parametrized(model):
    parametrize.register_parametrization(model.conv_out, "weight", nn.Softsign())
    return model


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of torch.compile
@pytest.mark.parametrize(
    "wrap",
    [
        torch.compile,
        nn.DataParallel,
        AveragedModel,
        adapted,
        parametrized,
        derive(Derived),
        derive(Scaled),
        lambda model: torch.compile(nn.DataParallel(derive(Scaled)(model))),
    ],
)
def test_a_wrapped_or_derived_model_is_described_as_what_it_is(wrap):
    plain = unet2d()
    described = from_diffusers(plain)
    model = wrap(plain)
    network = from_diffusers(model)
    assert (network.name, network.sample_shape) == ("UNet2DModel", described.sample_shape)
    assert network.probe() == 1
    eager = model._orig_mod if hasattr(model, "_orig_mod") else model
    x, t, _ = network.example(2)
    with torch.inference_mode():
        (expected,) = eager(x, t, return_dict=False)
        assert torch.equal(network.module(x, t), expected)


def test_a_derived_class_that_is_called_otherwise_is_a_module_like_any():
    config = unet2d().config
    assert from_diffusers(CalledOtherwise.from_config(config)) is None
    assert from_diffusers(OfNoModel()) is None


class Own(nn.Module):
    """A module with a float input besides x and t."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.mix, self.read = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(3, 1)

    def forward(self, x, t, style):
        return self.mix(x) + self.read(style)[:, :, None, None] * (t / 1000)[:, None, None, None]


@pytest.mark.parametrize(
    ("build", "shape", "dtype"),
    [
        (Own, {"style": (3,)}, torch.float16),
        (Own, {"style": (3,)}, torch.bfloat16),
        (unet2d_condition, {"encoder_hidden_states": (5, 12)}, torch.float16),
        (dit, {}, torch.bfloat16),
    ],
)
def test_a_model_of_half_precision_is_computed_in_float32(build, shape, dtype):
    model = build().to(dtype)
    inputs = {name: fastdiff.Conditioning(of_one, torch.float32) for name, of_one in shape.items()}
    given = {name: torch.full((1, *of_one), 0.3) for name, of_one in shape.items()}
    if build is dit:
        given["class_labels"] = [3]
    images = [
        fastdiff.compile(
            model,
            schedule={"clip_sample": False},
            sample_shape=(1, 8, 8) if build is Own else None,
            conditioning=inputs,
            **QUICK,
        ).sample(1, steps=2, seed=1, **given)
        for model in (model, copy.deepcopy(model).float())
    ]
    assert torch.equal(*images)
    assert images[0].dtype is torch.float32
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
