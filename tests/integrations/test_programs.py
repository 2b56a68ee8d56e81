"""Exported programs and plain functions as denoisers."""

import functools

import pytest
import torch
from torch import nn

import fastdiff
from fastdiff import Conditioning, errors
from fastdiff.integrations import describe, from_program

DYNAMIC = torch.export.Dim.DYNAMIC
QUICK = {"tune": 0.01, "cache": False, "precision": "float32"}
SHAPE, GAIN = (2, 3, 5), [0.0, 0.1, 0.2]


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, t, gain):
        return self.conv(x) * torch.cos(t / 300 + gain)[:, None, None, None]

    def predict(self, x, t):
        return self(x, t, torch.zeros_like(t))


def exported(rows, by_name):
    x, t, gain = torch.randn(rows, *SHAPE), torch.rand(rows), torch.rand(rows)
    open_rows = {0: DYNAMIC} if rows == 2 else None
    shapes = {"x": open_rows, "t": open_rows, "gain": open_rows}
    args, named = ((x, t), {"gain": gain}) if by_name else ((x, t, gain), {})
    return torch.export.export(Model().eval(), args, named, dynamic_shapes=shapes)


@pytest.fixture(scope="module")
def expected():
    """Latents, gains, and what the module itself samples from them."""
    z = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(1))
    inputs = {"gain": Conditioning(dtype=torch.float32)}
    sampler = fastdiff.compile(
        Model(), sample_shape=SHAPE, conditioning=inputs, backend="eager", **QUICK
    )
    return z, sampler.sample(latents=z, steps=3, gain=GAIN)


@pytest.mark.parametrize(
    ("rows", "by_name", "backend"),
    [(2, False, "eager"), (2, True, "onnxruntime"), (4, False, "onnxruntime")],
)
def test_program_samples_as_its_module(rows, by_name, backend, expected):
    z, images = expected
    sampler = fastdiff.compile(exported(rows, by_name), backend=backend, **QUICK)
    assert sampler.network.batch == (None if rows == 2 else 4)
    got = sampler.sample(latents=z, steps=3, gain=GAIN)
    torch.testing.assert_close(got, images, rtol=1e-5, atol=1e-5)


def test_program_says_what_it_takes():
    network = from_program(exported(2, by_name=True))
    assert network.sample_shape == SHAPE
    assert network.conditioning == {"gain": Conditioning((), torch.float32)}
    null = {"gain": Conditioning(null=0.5)}
    assert from_program(exported(2, False), conditioning=null).guidable
    one = torch.export.export(nn.Identity(), (torch.ones(2, 3),))
    with pytest.raises(errors.InvalidArgument, match="a program that takes x and t, got"):
        from_program(one)


def uses_a_closure():
    model = Model().eval()
    return lambda x, t: model(x, t, torch.zeros_like(t))


FUNCTIONS = {
    "method": lambda: Model().predict,
    "partial": lambda: functools.partial(Model.predict, Model()),
    "closure": uses_a_closure,
}


@pytest.mark.parametrize("kind", FUNCTIONS)
def test_function_runs_with_the_weights_that_it_uses(kind, expected):
    backend = "onnxruntime" if kind == "closure" else "eager"
    sampler = fastdiff.compile(FUNCTIONS[kind](), sample_shape=SHAPE, backend=backend, **QUICK)
    assert len(list(sampler.network.module.parameters())) == 2
    first = sampler.sample(latents=expected[0][:1], steps=3)
    torch.testing.assert_close(first, expected[1][:1], rtol=1e-5, atol=1e-5)


def test_function_that_torch_cannot_export_runs_eagerly_and_says_why(expected):
    predict = Model().predict

    def through_lists(x, t):
        return torch.tensor(predict(x, t).tolist())

    sampler = fastdiff.compile(through_lists, sample_shape=SHAPE, **QUICK)
    assert sampler.report.chosen.backend == "eager"
    assert "through_lists cannot be exported to ONNX" in str(sampler.report)
    first = sampler.sample(latents=expected[0][:1], steps=3)
    torch.testing.assert_close(first, expected[1][:1], rtol=1e-5, atol=1e-5)


def test_what_is_no_model_is_refused():
    with pytest.raises(errors.InvalidArgument, match=r"sample_shape=.* needed: predict has no"):
        describe(Model().predict)
    with pytest.raises(errors.InvalidArgument, match=r"expected an nn.Module, .* got type"):
        describe(Model, sample_shape=SHAPE)
