"""The caller's modes of torch change nothing that is computed, and are the same afterwards."""

import contextlib
import threading

import pytest
import torch
from torch import nn
from torch.nn.functional import linear

import fastdiff
from fastdiff.modes import float32_default

SHAPE = (2, 3, 5)
OPTIONS = {
    "sample_shape": SHAPE,
    "conditioning": {"style": fastdiff.Conditioning((2,), torch.float32, null=0.1)},
    "precision": "float32",
    "max_batch": 2,
    "tune": 0.001,
    "cache": False,
}
INPUTS = {"style": [[0.1, 0.2], [0.3, 0.4]], "guidance_scale": 2.0, "steps": 3, "seed": 1}
BACKENDS = ("eager", "onnxruntime", "native")


class Defaulting(nn.Module):
    """Leaves dtypes and devices to torch's defaults, as many networks do."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        weight = torch.randn(2, 30, generator=generator, dtype=torch.float32)
        self.weight = nn.Parameter(weight / 9)
        self.mixing = nn.Parameter(weight[:, :2].clone())

    def forward(self, x, t, style):
        rates = torch.exp(-torch.arange(2) * 0.5)
        hidden = torch.cos(t[:, None] / 300 * rates) + linear(x.flatten(1), self.weight)
        return torch.sin(x + (hidden + linear(style, self.mixing))[:, :, None, None])


@contextlib.contextmanager
def default_dtype(dtype):
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def deterministic():
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextlib.contextmanager
def all_at_once():
    with contextlib.ExitStack() as stack:
        for mode in (default_dtype(torch.float64), deterministic(), torch.inference_mode()):
            stack.enter_context(mode)
        stack.enter_context(torch.autocast("cpu", torch.bfloat16))
        stack.enter_context(torch.device("meta"))
        yield


MODES = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "inference": torch.inference_mode,
    "no gradients": torch.no_grad,
    "deterministic": deterministic,
    "all": all_at_once,
}


def modes():
    """Return everything that a mode of `MODES` sets."""
    return (
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.is_autocast_enabled("cpu"),
        torch.is_inference_mode_enabled(),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.fixture(scope="module")
def plain():
    """A sampler of each backend, compiled without any mode, and its images."""
    samplers = {e: fastdiff.compile(Defaulting(), backend=e, **OPTIONS) for e in BACKENDS}
    return {e: (sampler, sampler.sample(**INPUTS)) for e, sampler in samplers.items()}


@pytest.mark.parametrize("mode", MODES)
def test_samples_have_the_same_bits_in_any_mode(mode, plain):
    for sampler, expected in plain.values():
        latents = torch.ones(1, *SHAPE, dtype=torch.float32)
        image = {"image": latents / 4, "mask": latents[:, :1], "style": [0.5, 0.5]}
        edited = sampler.sample(**image, steps=3, seed=1)
        with MODES[mode]():
            around = modes()
            first = sampler.new_engine()  # allocates what the others have
            ticket = first.submit(sampler.request(**INPUTS))
            while not ticket.done:
                first.advance(ticket)
            again = sampler.sample(**image, steps=3, seed=1)
            images = sampler.sample(**INPUTS)
            assert modes() == around
        for got in (ticket.result(), images):
            assert got.dtype == torch.float32
            assert not got.is_inference()
            assert torch.equal(got, expected)
        assert torch.equal(again, edited)
    assert torch.equal(sampler.sample(**INPUTS), expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_compiling_in_any_mode_gives_the_same_sampler(backend, plain):
    model = Defaulting()
    with all_at_once():
        around = modes()
        sampler = fastdiff.compile(model, backend=backend, **OPTIONS)
        assert modes() == around
    assert torch.equal(sampler.sample(**INPUTS), plain[backend][1])
    with all_at_once():
        sampler.update_weights(model)
    assert torch.equal(sampler.sample(**INPUTS), plain[backend][1])


def test_the_last_thread_that_needs_float32_restores_the_default():
    entered, leave = threading.Event(), threading.Event()

    def work():
        with float32_default:
            entered.set()
            leave.wait()

    with default_dtype(torch.float64):
        thread = threading.Thread(target=work)
        with float32_default:
            thread.start()
            entered.wait()
        assert torch.get_default_dtype() == torch.float32  # the other still needs it
        leave.set()
        thread.join()
        assert torch.get_default_dtype() == torch.float64
