"""Adapters that peft has put into a model of diffusers."""

import pytest
import torch
from diffusers import DDIMScheduler
from diffusers_models import unet2d_condition

import fastdiff
from fastdiff import Conditioning
from fastdiff.compiling import CompileOptions
from fastdiff.integrations import describe
from fastdiff.storing import cache_key

peft = pytest.importorskip("peft", reason="adapters need peft")
pytestmark = pytest.mark.peer


@pytest.fixture(scope="module")
def adapted():
    """A model with an adapter at half of its scale."""
    model = unet2d_condition()
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    torch.manual_seed(1)
    model.add_adapter(config, adapter_name="style")
    model.set_adapters("style", 0.5)
    return model


def ddim(model, scheduler, x, text):
    scheduler.set_timesteps(3)
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(model(x, t, text, return_dict=False)[0], t, x).prev_sample
    return x


def test_images_are_those_of_the_adapted_model(adapted):
    generator, scheduler = torch.Generator().manual_seed(2), DDIMScheduler()
    z, text = (torch.randn(2, *shape, generator=generator) for shape in ((2, 8, 8), (5, 12)))
    expected, plain = (ddim(model, scheduler, z, text) for model in (adapted, unet2d_condition()))
    sampler = fastdiff.compile(
        adapted,
        schedule=scheduler.config,
        conditioning={"encoder_hidden_states": Conditioning((5, 12), torch.float32)},
        backend="eager", precision="float32", tune=0.01, cache=False,
    )  # fmt: skip
    got = sampler.sample(encoder_hidden_states=text, latents=z, steps=3, compat="diffusers")
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    assert float((plain - expected).abs().max()) > 1e-2


def test_cache_tells_adapters_and_their_scales_apart(adapted):
    def key(model):
        return cache_key(*describe(model), CompileOptions())

    adapted.set_adapters("style", 1.0)
    whole = key(adapted)
    adapted.set_adapters("style", 0.5)
    keys = [whole, key(adapted), key(unet2d_condition())]
    assert None not in keys
    assert len(set(keys)) == 3
