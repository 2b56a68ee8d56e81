"""What noise the steps of a call get from its generators."""

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from fastdiff.integrations.pipelines.seeds import Seeds

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers
]

ASKED = {"num_inference_steps": 5, "output_type": "np"}


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


def correlation(one, other):
    return abs(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1])


@pytest.fixture
def stochastic(compiled):
    """Return a compiled pipeline whose steps add noise."""
    return compiled("ddpm")[1]


def test_each_generator_seeds_its_image_in_any_company(stochastic):
    together = stochastic(batch_size=2, generator=[seeded(3), seeded(8)], **ASKED).images
    for place, seed in enumerate((3, 8)):
        alone = stochastic(generator=[seeded(seed)], **ASKED).images
        np.testing.assert_allclose(together[place], alone[0], rtol=0, atol=1e-5)
    assert correlation(*together) < 0.5


def test_image_of_a_generator_does_not_depend_on_how_many_follow(stochastic):
    three = stochastic(batch_size=3, generator=seeded(), **ASKED).images
    one = stochastic(generator=seeded(), **ASKED).images
    np.testing.assert_allclose(three[:1], one, rtol=0, atol=1e-5)
    assert correlation(three[0], three[1]) < 0.5


def test_generator_that_is_used_again_gives_another_image(stochastic):
    generator = seeded()
    first, second = (stochastic(generator=generator, **ASKED).images for _ in range(2))
    assert correlation(first, second) < 0.5


def test_generator_that_stands_twice_in_a_list_gives_two_images(stochastic):
    generator = seeded()
    images = stochastic(batch_size=2, generator=[generator, generator], **ASKED).images
    assert correlation(*images) < 0.5


def test_noise_is_another_where_the_latents_are_the_same(compiled):
    _, fast = compiled("text_to_image")
    fast.scheduler = DDIMScheduler.from_config(fast.scheduler.config)
    latents, generator = torch.randn(1, 4, 8, 8, generator=seeded(1)), seeded()
    asked = {"prompt": "a cat", "latents": latents, "eta": 1.0, "guidance_scale": 1.0, **ASKED}
    first, second = (fast(generator=generator, **asked).images for _ in range(2))
    again = fast(generator=seeded(), **asked).images
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - second).max() > 0.05


def test_without_a_generator_it_is_torch_s_own(stochastic):
    torch.manual_seed(5)
    first, second = (stochastic(**ASKED).images for _ in range(2))
    torch.manual_seed(5)
    np.testing.assert_array_equal(stochastic(**ASKED).images, first)
    assert correlation(first, second) < 0.5


def test_generator_of_steps_without_noise_is_left_where_diffusers_leaves_it(compiled):
    pipe, fast = compiled("ddim")
    states = []
    for made in (pipe, fast):
        generator = seeded()
        made(generator=generator, **ASKED)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_generator_moves_on_by_one_number_for_each_place(compiled):
    generator, expected = seeded(), seeded()
    seeds = Seeds([generator, generator, seeded(8)])
    assert torch.equal(generator.get_state(), expected.get_state())
    drawn = [int(torch.randint(2**63 - 1, (), generator=expected)) for _ in range(2)]
    assert seeds.value == [*drawn, Seeds(seeded(8)).value]
    seeds.move_on()
    assert torch.equal(generator.get_state(), expected.get_state())
