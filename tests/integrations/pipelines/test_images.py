"""A compiled pipeline gives the images of the pipeline."""

import inspect
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_ddpm

import fastdiff
from fastdiff.kernels.noise import TAG_STEP
from fastdiff.kernels.noise.reference import normal

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers
]

QUICK = {"backend": "eager", "precision": "float32", "max_batch": 2, "tune": 0.01, "cache": False}
FULL_SCALE = 1e-3  # of images in [0, 1]
TEXT = {"prompt": ["a cat", "two dogs"], "num_inference_steps": 4}


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def both(pair, **arguments):
    """Call the pipeline and the compiled one with equal generators."""
    pipe, fast = pair
    arguments = {"output_type": "np", **arguments}
    return (made(generator=seeded(), **arguments) for made in (pipe, fast))


def assert_same_images(pair, **arguments):
    expected, got = both(pair, **arguments)
    assert type(got) is type(expected)
    assert expected.images.std() > 0.05  # of noise or of a picture, not of one grey
    np.testing.assert_allclose(got.images, expected.images, rtol=0, atol=FULL_SCALE)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("ddim", {"batch_size": 3}),
        ("ldm", {"batch_size": 2}),
        ("class_conditional", {"class_labels": [3, 5]}),
        ("class_conditional", {"class_labels": [7], "guidance_scale": 1.0}),
        ("ldm_text_to_image", {"prompt": ["a cat", "dog"], "guidance_scale": 0.5}),
        ("text_to_image", {"prompt": "a cat", "guidance_scale": 1.0}),
        ("text_to_image", {"prompt": ["a cat"], "num_images_per_prompt": 3}),
        ("text_to_image", {"prompt": ["a cat", "dog"], "negative_prompt": ["owl", "a fox"]}),
        ("text_to_image", {"prompt": "a cat", "guidance_rescale": 0.7}),
    ],
)
def test_images_are_those_of_the_pipeline(compiled, name, arguments):
    assert_same_images(compiled(name), num_inference_steps=4, **arguments)


@pytest.mark.parametrize("strength", [0.4, 0.8])
def test_image_to_image_is_that_of_the_pipeline(compiled, picture, strength):
    arguments = {"prompt": "a cat", "num_inference_steps": 5, "strength": strength}
    assert_same_images(compiled("image_to_image"), image=picture, **arguments)


def test_tensors_are_taken_as_pictures_are(compiled, picture):
    pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
    arguments = {"prompt": "a cat", "num_inference_steps": 5}
    assert_same_images(compiled("image_to_image"), image=pixels, **arguments)


@pytest.mark.parametrize("name", ["inpainting", "inpainting_unet"])
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_inpainting_is_that_of_the_pipeline(compiled, picture, region, name, strength):
    arguments = {"image": picture, "mask_image": region, "strength": strength}
    assert_same_images(compiled(name), prompt="a cat", num_inference_steps=4, **arguments)


@pytest.mark.parametrize(
    ("name", "scheduler", "config"),
    [
        ("class_conditional", DPMSolverMultistepScheduler, {}),
        ("text_to_image", UniPCMultistepScheduler, {"use_karras_sigmas": True}),
        ("text_to_image", DDIMScheduler, {"prediction_type": "v_prediction", "clip_sample": True}),
        ("ddpm", DDIMScheduler, {"thresholding": True, "sample_max_value": 1.5}),
    ],
)
def test_scheduler_that_is_set_afterwards_is_used(compiled, name, scheduler, config):
    pipe, fast = compiled(name)
    before = pipe.scheduler
    fast.scheduler = pipe.scheduler = scheduler.from_config(before.config, **config)
    engine = fast.sampler.engine
    arguments = {
        "ddpm": {"batch_size": 2},
        "class_conditional": {"class_labels": [3, 5]},
        "text_to_image": {"prompt": "a cat"},
    }[name]
    try:
        assert_same_images((pipe, fast), num_inference_steps=5, **arguments)
    finally:
        pipe.scheduler = before
    assert fast.sampler.engine is engine


def test_times_and_levels_of_the_call_are_visited(compiled):
    pipe, fast = compiled("text_to_image")
    before = pipe.scheduler
    fast.scheduler = pipe.scheduler = EulerDiscreteScheduler.from_config(before.config)
    try:
        assert_same_images((pipe, fast), prompt="a cat", timesteps=[900, 500, 77])
        assert_same_images((pipe, fast), prompt="a cat", sigmas=[9.0, 2.0, 0.5, 0.0])
    finally:
        pipe.scheduler = before


def test_noise_of_steps_has_the_next_number_of_the_generator_as_its_seed(compiled, monkeypatch):
    pair = compiled("ddpm")
    draws, seed = iter(range(4)), int(torch.randint(2**63 - 1, (), generator=seeded()))

    def noise(shape, **options):
        draw, size = next(draws), int(np.prod(shape[1:]))
        rows = [normal(seed, image, draw, TAG_STEP, 0, size) for image in range(shape[0])]
        return torch.from_numpy(np.stack(rows)).float().reshape(shape)

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", noise)
    assert_same_images(pair, batch_size=2, num_inference_steps=4)


def test_latents_are_honoured_and_can_be_returned(compiled):
    pair = compiled("text_to_image")
    latents = torch.randn(2, 4, 8, 8, generator=seeded(1))
    expected, got = both(pair, latents=latents, output_type="latent", **TEXT)
    torch.testing.assert_close(got.images, expected.images, rtol=0, atol=1e-4)


@pytest.mark.parametrize("output_type", ["pil", "pt"])
def test_output_is_of_the_pipeline_s_types(compiled, output_type):
    pair = compiled("text_to_image")
    (expected, _), (got, flags) = both(pair, output_type=output_type, return_dict=False, **TEXT)
    assert flags is None
    assert [type(image) for image in got] == [type(image) for image in expected]
    for one, other in zip(got, expected, strict=True):
        difference = np.abs(np.asarray(one, np.float32) - np.asarray(other, np.float32))
        assert difference.max() <= (1 if output_type == "pil" else FULL_SCALE)


def test_pipeline_is_compiled_for_another_size(compiled):
    pipe, _ = compiled("text_to_image")
    fast = fastdiff.compile(pipe, sample_shape=(4, 8, 16), **QUICK)
    (expected, got) = (
        made(prompt="a cat", generator=seeded(), num_inference_steps=3, output_type="np", **size)
        for made, size in ((pipe, {"height": 64, "width": 128}), (fast, {}))
    )
    np.testing.assert_allclose(got.images, expected.images, rtol=0, atol=FULL_SCALE)


def test_calls_of_two_threads_do_not_meet(compiled):
    pair = _, fast = compiled("class_conditional")
    labels = [[3, 5], [700]]
    alone = [next(both(pair, class_labels=some, num_inference_steps=6)) for some in labels]
    with ThreadPoolExecutor(2) as pool:
        call = lambda some: fast(
            class_labels=some, num_inference_steps=6, output_type="np", generator=seeded()
        )
        for got, expected in zip(pool.map(call, labels), alone, strict=True):
            np.testing.assert_allclose(got.images, expected.images, rtol=0, atol=FULL_SCALE)


def test_signature_and_attributes_are_the_pipeline_s(compiled):
    pipe, fast = compiled("text_to_image")
    assert inspect.signature(fast) == inspect.signature(pipe)
    for name in ("unet", "vae", "text_encoder", "tokenizer", "scheduler", "vae_scale_factor"):
        assert type(getattr(fast, name)) is type(getattr(pipe, name))
    assert not hasattr(fast, "nothing_of_that_name")


def test_unsafe_images_are_what_the_pipeline_s_checker_says(compiled, monkeypatch):
    _, fast = compiled("text_to_image")

    def checker(images, clip_input):
        return images * 0, [True] * len(images)

    class Pixels(dict):
        pixel_values = torch.zeros(1)

        def to(self, device):
            return self

    for name, part in (
        ("safety_checker", checker),
        ("feature_extractor", lambda *_, **__: Pixels()),
    ):
        monkeypatch.setitem(vars(fast.pipeline), name, part)
    got = fast(prompt="a cat", num_inference_steps=2, output_type="np")
    assert got.nsfw_content_detected == [True]
    assert (got.images == 0).all()
