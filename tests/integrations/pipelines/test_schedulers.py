"""Every scheduler whose steps a pipeline takes gives the images of diffusers from a picture."""

import sys

import diffusers
import numpy as np
import pipelines
import pytest
import torch

from fastdiff.kernels.noise import TAG_STEP
from fastdiff.kernels.noise.reference import normal

pytestmark = [
    pytest.mark.peer,
    # diffusers calls np.array on tensors, and takes logarithms of its final sigma of 0.
    pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning"),
]

FULL_SCALE = 1e-3  # of images in [0, 1]
TRAINED = {key: value for key, value in pipelines.STABLE_DIFFUSION.items() if "beta" in key}
OFFSET = pipelines.STABLE_DIFFUSION
SCHEDULERS = {
    "DDIMScheduler": OFFSET,
    "DDPMScheduler": TRAINED,
    "DEISMultistepScheduler": OFFSET,
    "DPMSolverMultistepScheduler": OFFSET | {"algorithm_type": "sde-dpmsolver++"},
    "DPMSolverSinglestepScheduler": TRAINED,
    "EulerAncestralDiscreteScheduler": OFFSET,
    "EulerDiscreteScheduler": OFFSET | {"use_karras_sigmas": True},
    "HeunDiscreteScheduler": OFFSET,
    "KDPM2AncestralDiscreteScheduler": OFFSET,
    "KDPM2DiscreteScheduler": OFFSET,
    "LCMScheduler": TRAINED,
    "PNDMScheduler": OFFSET | {"skip_prk_steps": True},
    "UniPCMultistepScheduler": OFFSET,
}


def assert_same_images(pair, scheduler, monkeypatch, **arguments):
    """Compare images of equal generators, where diffusers draws the noise of steps from ours."""
    expected, got = pair
    before, draws = expected.scheduler, iter(range(100))
    seed = int(torch.randint(2**63 - 1, (), generator=torch.Generator().manual_seed(5)))

    def noise(shape, **_):
        step = getattr(scheduler, "step_index", None)
        draw = next(draws) if step is None else step - scheduler.begin_index
        size = int(np.prod(shape[1:]))
        rows = [normal(seed, image, draw, TAG_STEP, 0, size) for image in range(shape[0])]
        return torch.from_numpy(np.stack(rows)).float().reshape(shape)

    module = sys.modules[type(scheduler).__module__]
    if hasattr(module, "randn_tensor"):
        monkeypatch.setattr(module, "randn_tensor", noise)
    expected.scheduler = got.scheduler = scheduler
    try:
        theirs, ours = (
            made(
                prompt="a cat",
                generator=torch.Generator().manual_seed(5),
                output_type="np",
                **arguments,
            ).images
            for made in pair
        )
    finally:
        expected.scheduler = before
    assert theirs.std() > 0.05
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=FULL_SCALE)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_image_to_image_is_that_of_the_pipeline(compiled, picture, monkeypatch, name):
    scheduler = getattr(diffusers, name)(**SCHEDULERS[name])
    given = {"image": picture, "strength": 0.6, "num_inference_steps": 5}
    assert_same_images(compiled("image_to_image"), scheduler, monkeypatch, **given)


@pytest.mark.parametrize(
    ("steps", "strength", "skip"),
    [(5, 0.2, True), (4, 0.75, True), (6, 0.5, False), (5, 0.2, False), (14, 0.15, False)],
)
def test_pndm_begins_wherever_the_pipeline_cuts_its_list(
    compiled, picture, monkeypatch, steps, strength, skip
):
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=skip, **OFFSET)
    given = {"image": picture, "strength": strength, "num_inference_steps": steps}
    assert_same_images(compiled("image_to_image"), scheduler, monkeypatch, **given)


@pytest.mark.parametrize("unet", ["inpainting", "inpainting_unet"])
@pytest.mark.parametrize(
    "name", ["DDPMScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "PNDMScheduler"]
)
def test_inpainting_is_that_of_the_pipeline(compiled, picture, region, monkeypatch, unet, name):
    scheduler = getattr(diffusers, name)(**SCHEDULERS[name])
    given = {"image": picture, "mask_image": region, "strength": 0.7, "num_inference_steps": 4}
    assert_same_images(compiled(unet), scheduler, monkeypatch, **given)
