"""Pipelines whose parts have weights of several types, are wrapped, or are of derived classes."""

import diffusers
import numpy as np
import pipelines
import pytest
import torch
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.integrations.pipelines import describe_pipeline

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers
]

QUICK = {"backend": "eager", "precision": "float32", "max_batch": 2, "tune": 0.01, "cache": False}
TEXT = {"prompt": "a cat", "num_inference_steps": 3}


def sample(pipe, **arguments):
    pipe.set_progress_bar_config(disable=True)
    return pipe(generator=torch.Generator().manual_seed(5), **arguments).images


@pytest.fixture(scope="module")
def expected():
    """The image of diffusers in float32."""
    return sample(pipelines.text_to_image(), output_type="np", **TEXT)


@pytest.mark.parametrize(
    ("dtype", "parts"),
    [
        (torch.float16, ["unet"]),
        (torch.bfloat16, ["vae"]),
        (torch.float16, ["text_encoder"]),
        (torch.bfloat16, ["unet", "text_encoder", "vae"]),
    ],
)
def test_every_mixture_of_types_gives_the_image(dtype, parts, picture):
    pipe = pipelines.image_to_image()
    given = {"image": picture, **TEXT}
    expected = sample(pipe, output_type="pt", **given)
    for part in parts:
        getattr(pipe, part).to(dtype)
    fast = fastdiff.compile(pipe, **QUICK)
    images = sample(fast, output_type="pt", **given)
    assert images.dtype is pipe.vae.dtype
    torch.testing.assert_close(images.float(), expected, rtol=0, atol=0.05)
    latents = sample(fast, output_type="latent", **given)
    assert latents.dtype is torch.promote_types(pipe.vae.dtype, pipe.text_encoder.dtype)
    assert {getattr(pipe, part).dtype for part in parts} == {dtype}


def test_a_safety_checker_of_another_type_is_called(expected):
    class Checker(nn.Module):
        dtype, device = torch.float16, torch.device("cpu")

        def forward(self, clip_input, images):
            assert clip_input.dtype is self.dtype
            return images, [False]

    pipe = pipelines.text_to_image()
    vars(pipe)["safety_checker"] = Checker()
    vars(pipe)["feature_extractor"] = lambda images, return_tensors: FrozenInput()
    images = sample(fastdiff.compile(pipe, **QUICK), output_type="np", **TEXT)
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-3)


class FrozenInput:
    """What a feature extractor returns."""

    pixel_values = torch.zeros(1, 3, 4, 4)

    def to(self, device):
        return self


def test_a_folder_of_half_precision_is_loaded_in_float32(tmp_path):
    pipe = pipelines.text_to_image().to(torch.float16)
    pipe.save_pretrained(tmp_path)
    fast = fastdiff.compile(tmp_path, **QUICK)
    assert {fast.unet.dtype, fast.vae.dtype, fast.text_encoder.dtype} == {torch.float32}
    expected = sample(pipe.to(torch.float32), output_type="np", **TEXT)
    np.testing.assert_allclose(sample(fast, output_type="np", **TEXT), expected, rtol=0, atol=1e-3)


@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # of torch.compile
@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel])
def test_wrapped_parts_are_compiled(wrap, expected):
    pipe = pipelines.text_to_image()
    plain = pipe.unet
    pipe.unet = wrap(pipe.unet)
    if wrap is torch.compile:
        pipe.vae = wrap(pipe.vae)
    fast = fastdiff.compile(pipe, **QUICK)
    np.testing.assert_allclose(sample(fast, output_type="np", **TEXT), expected, atol=1e-3)
    with torch.no_grad():
        plain.conv_out.weight.mul_(-1)
    fast.update_weights(wrap(plain))
    changed = sample(fast, output_type="np", **TEXT)
    assert np.abs(changed - expected).max() > 0.01


class Derived(diffusers.DDIMPipeline):
    pass


class WithALoopOfItsOwn(diffusers.DDIMPipeline):
    def __call__(self, **arguments):
        return super().__call__(**arguments)


class DDPMPipeline:
    pass


def test_a_derived_pipeline_is_its_base_if_it_is_called_as_that():
    pipe = pipelines.ddim()
    arguments = {"num_inference_steps": 2, "output_type": "np"}
    fast = fastdiff.compile(Derived(pipe.unet, pipe.scheduler), **QUICK)
    np.testing.assert_allclose(sample(fast, **arguments), sample(pipe, **arguments), atol=1e-3)
    with pytest.raises(errors.InvalidArgument, match="WithALoopOfItsOwn has a __call__ of its own"):
        describe_pipeline(WithALoopOfItsOwn(pipe.unet, pipe.scheduler))
    with pytest.raises(errors.UnknownName, match="pipeline class 'DDPMPipeline'; known"):
        describe_pipeline(DDPMPipeline())
