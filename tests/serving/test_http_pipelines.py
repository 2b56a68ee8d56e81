"""Pipelines of diffusers as served models: the text before the engine, the decoder after it."""

import numpy as np
import pipelines
import pytest
import torch
from serving import unmeasured

from fastdiff.errors import InvalidArgument
from fastdiff.integrations.pipelines import CompiledPipeline
from fastdiff.integrations.pipelines.families import family_of
from fastdiff.integrations.schedulers import read_scheduler
from fastdiff.serving.faults import ApiError
from fastdiff.serving.pipelines import pipeline_model
from fastdiff.serving.protocol import ImageRequest


def served(pipe):
    family = family_of(type(pipe).__name__)
    _, schedule = read_scheduler(pipe.scheduler)
    sampler = unmeasured(family.describe(pipe, None), schedule)
    return pipeline_model([CompiledPipeline(pipe, family, sampler)])


@pytest.fixture(scope="module")
def pipe():
    return pipelines.text_to_image()


@pytest.fixture(scope="module")
def model(pipe):
    return served(pipe)


def test_texts_become_what_the_pipeline_makes_of_them(pipe, model):
    ask = ImageRequest(prompt="a b", negative_prompt="c", n=2, num_inference_steps=5, seed=1)

    request = model.check(ask).build()

    with torch.no_grad():
        wanted, unwanted = pipe.encode_prompt("a b", "cpu", 1, True, "c")
    got = request.conditioning["encoder_hidden_states"]
    assert torch.equal(got, wanted.expand_as(got))
    assert torch.equal(request.negative["encoder_hidden_states"], unwanted.expand_as(got))
    assert request.guidance.tolist() == [7.5, 7.5]


def test_latents_become_what_the_pipeline_makes_of_them(pipe, model):
    latents = torch.randn(
        2, *model.samplers[0].network.sample_shape, generator=torch.manual_seed(3)
    )

    pixels = model.pixels(latents)

    with torch.no_grad():
        decoded = pipe.vae.decode(latents / pipe.vae.config.scaling_factor).sample
    expected = np.stack([np.asarray(p) for p in pipe.image_processor.postprocess(decoded)])
    assert np.abs(pixels.astype(int) - expected).max() <= 1
    assert model.parameters["sizes"] == ["{}x{}".format(*pixels.shape[2:0:-1])]


def test_the_scheduler_is_the_default_solver_with_its_options(model):
    checked = model.check(ImageRequest(prompt="a", num_inference_steps=12, seed=1))

    assert model.default_solver == "pndm"
    assert checked.job.steps == checked.build().steps == 13  # no Runge-Kutta start: skip_prk_steps
    assert checked.job.guided


def test_what_a_text_model_cannot_take_is_named(model):
    long = ImageRequest(prompt="a " * 40, seed=1)
    cases = {
        "prompt": ImageRequest(seed=1),
        "class_labels": ImageRequest(prompt="a", class_labels=1, seed=1),
        "negative_prompt": ImageRequest(prompt="a", negative_prompt="b", guidance_scale=1, seed=1),
    }
    for name, ask in cases.items():
        with pytest.raises(ApiError) as refused:
            model.check(ask)
        assert refused.value.param == name
    with pytest.raises(ApiError, match="14 tokens") as refused:
        model.check(long).build()
    assert refused.value.param == "prompt"


def test_a_class_conditional_pipeline_takes_labels():
    model = served(pipelines.class_conditional())

    request = model.check(ImageRequest(prompt="5", seed=1, num_inference_steps=3)).build()

    assert request.conditioning["class_labels"].tolist() == [5]
    assert model.pixels(torch.zeros(1, 4, 8, 8)).shape == (1, 64, 64, 3)


def test_a_pipeline_that_needs_a_mask_is_refused():
    with pytest.raises(InvalidArgument, match="mask"):
        served(pipelines.inpainting_unet())
