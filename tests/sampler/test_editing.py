"""Starting from images and inverting them, where the answer is known, and on digits."""

import numpy as np
import pytest
import torch
from networks import eager_sampler
from sklearn.datasets import load_digits as load_digit_images

from fastdiff.models import NULL_CLASS, digits_schedule_config, load_digits
from fastdiff.networks import Conditioning, Network
from fastdiff.sampling import Schedule, get_solver

MEAN, STD = 0.3, 0.5
SCHEDULE = Schedule(clip_sample=False)
RNG = torch.Generator().manual_seed(4)
IMAGES = torch.randn(2, 1, 4, 6, generator=RNG)


class GaussianDenoiser(torch.nn.Module):
    """The true epsilon of data N(MEAN, STD^2)."""

    def __init__(self):
        super().__init__()
        self.register_buffer("alphas_cumprod", torch.from_numpy(SCHEDULE.alphas_cumprod.copy()))

    def forward(self, x, t):
        alpha2 = self.alphas_cumprod[t.long()][:, None, None, None]
        variance = alpha2 * STD**2 + 1 - alpha2
        return ((1 - alpha2).sqrt() * (x - alpha2.sqrt() * MEAN) / variance).float()


@pytest.fixture(scope="module")
def gaussian():
    return eager_sampler(Network(GaussianDenoiser(), (1, 4, 6), {}, "gaussian"), SCHEDULE)


@pytest.fixture(scope="module")
def digits():
    labels = {"class_labels": Conditioning(num_classes=10, null=NULL_CLASS)}
    network = Network(load_digits(), (1, 8, 8), labels, "digits")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield eager_sampler(network, Schedule.from_config(digits_schedule_config()), batch=16)
    torch.set_num_threads(threads)


def flow(x, alpha, sigma):
    """Where the probability flow takes x from a level to the data: an affine map."""
    return MEAN + STD / np.hypot(alpha * STD, sigma) * (x - alpha * MEAN)


@pytest.mark.parametrize(("solver", "error"), [("ddim", 0.03), ("dpmpp_2m", 1e-3), ("heun", 1e-4)])
def test_a_started_image_follows_the_probability_flow(gaussian, solver, error):
    """x0 of each pixel is the exact map of alpha image + sigma noise, up to the solver's error."""
    steps, strength = 200, 0.6
    noise = torch.randn(IMAGES.shape, generator=RNG)
    got = gaussian.sample(
        image=IMAGES, latents=noise, strength=strength, solver=solver, steps=steps
    )
    alpha, sigma = get_solver(solver).table(SCHEDULE, steps, start=80).levels[0]
    want = flow(alpha * IMAGES + sigma * noise, alpha, sigma)
    assert (got - want).abs().max() < error
    assert (want - IMAGES).abs().max() > 0.5


def test_a_started_image_is_sampled_from_the_conditional_distribution(gaussian):
    """Of x0 given the image, over many seeds: the posterior of x0, over the noise of the start."""
    pixel = IMAGES[:1]
    strength, n = 0.3, 64
    got = gaussian.sample(n, image=pixel, strength=strength, solver="ddpm", steps=1000, seed=1)
    alpha, sigma = SCHEDULE.level(299)
    gain = (
        alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
    )  # E[x0 | x] = MEAN + gain (x - alpha MEAN)
    mean = MEAN + gain * alpha * (pixel - MEAN)
    std = np.sqrt(STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2) + (gain * sigma) ** 2)
    scores = (got - mean) / std
    assert scores.mean().abs() < 4 / np.sqrt(scores.numel())
    assert abs(float(scores.std()) - 1) < 4 / np.sqrt(2 * scores.numel())
    assert (mean - MEAN).abs().max() > 3 * std / np.sqrt(n)


def test_inversion_finds_the_exact_latents_and_sampling_gives_the_images_back(gaussian):
    alpha, sigma = SCHEDULE.level(999)
    exact = alpha * MEAN + np.hypot(alpha * STD, sigma) * (IMAGES - MEAN) / STD
    errors = []
    for steps in (25, 50, 100, 200):
        latents = gaussian.invert(IMAGES, steps=steps)
        back = gaussian.sample(latents=latents, steps=steps)
        errors.append([float((a - b).abs().max()) for a, b in ((latents, exact), (back, IMAGES))])
    errors = np.array(errors)
    assert (errors[1:] < 0.65 * errors[:-1]).all()  # first order: half with each doubling
    assert (errors[-1] < 0.06).all()


def test_inversion_of_digits_gives_them_back(digits):
    data = load_digit_images()
    images = torch.tensor(data.images[:3] / 8 - 1, dtype=torch.float32)[:, None]
    labels = data.target[:3].tolist()
    errors = []
    for steps in (12, 36):
        latents = digits.invert(images, steps=steps, class_labels=labels)
        back = digits.sample(latents=latents, steps=steps, class_labels=labels)
        errors.append(float((back - images).square().mean().sqrt()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.06  # of digits whose deviation is 0.75
    assert float((latents - images).abs().mean()) > 0.5
