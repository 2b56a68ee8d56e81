"""Calls of several threads: they share the loop, and take turns in the pipeline's own code."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers
]

TEXT = {"num_inference_steps": 3, "output_type": "np"}


def seeded(seed=5):
    return torch.Generator().manual_seed(seed)


class Room:
    """Notes whether a thread enters while another is inside, and gives it time to."""

    def __init__(self):
        self.inside, self.crowded = set(), threading.Event()

    def guard(self, function):
        def entered(*args, **options):
            self.inside.add(threading.get_ident())
            if len(self.inside) > 1:
                self.crowded.set()
            self.crowded.wait(0.05)
            try:
                return function(*args, **options)
            finally:
                self.inside.discard(threading.get_ident())

        return entered


def test_calls_share_their_loops_and_nothing_else(compiled, monkeypatch):
    _, fast = compiled("text_to_image")
    room, everyone = Room(), threading.Barrier(2, timeout=60)
    pipe = fast.pipeline
    for owner, name in (
        (type(pipe.tokenizer), "__call__"),
        (pipe.text_encoder, "forward"),
        (type(pipe), "prepare_latents"),
        (pipe.vae, "decode"),
        (type(pipe), "run_safety_checker"),
    ):
        monkeypatch.setattr(owner, name, room.guard(getattr(owner, name)))

    def meet(*_):  # nobody gets on unless both are in their loops, the last step included
        everyone.wait()

    def call(prompt):
        return fast(prompt, callback_on_step_end=meet, generator=seeded(), **TEXT).images

    with ThreadPoolExecutor(2) as pool:
        images = list(pool.map(call, ["a cat", "two dogs"]))
    assert not room.crowded.is_set()
    assert np.abs(images[0] - images[1]).max() > 0.01


def test_many_calls_of_many_threads_give_the_images_of_each_alone(compiled):
    """A fast tokenizer that one thread sets to pad while another encodes gives other tokens."""
    _, fast = compiled("text_to_image")
    asked = {"num_inference_steps": 1, "output_type": "latent", "guidance_scale": 1.0}
    call = lambda words: fast("a cat " * words, generator=seeded(), **asked).images
    lengths = [1, 3, 5] * 50
    alone = {words: call(words) for words in set(lengths)}
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)
    try:
        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(call, lengths))
    finally:
        sys.setswitchinterval(interval)
    for words, image in zip(lengths, images, strict=True):
        torch.testing.assert_close(image, alone[words], rtol=0, atol=1e-4)


def test_threads_that_share_a_generator_get_different_noise(compiled):
    _, fast = compiled("ddpm")
    generator, asked = seeded(), {"num_inference_steps": 3, "output_type": "np"}
    with ThreadPoolExecutor(4) as pool:
        calls = [pool.submit(fast, generator=generator, **asked) for _ in range(4)]
        images = np.stack([call.result().images.ravel() for call in calls])
    correlations = np.abs(np.corrcoef(images)) - np.eye(4)
    assert correlations.max() < 0.5
