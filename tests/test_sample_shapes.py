"""Samples that are no pictures: rows of tables, sequences, sound, videos, by every way there is."""

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

import fastdiff
from fastdiff.backends import BACKENDS
from fastdiff.compiler import describe
from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.exporting import export_sampler
from fastdiff.sampling import Schedule, get_solver, run_table

SHAPES = [(14,), (7, 16), (1, 64), (3, 2, 8, 4)]
SCHEDULE = Schedule(clip_sample=False)
OPTIONS = {"steps": 4, "seed": 5, "solver": "dpmpp_2m"}


class Mixing(nn.Module):
    """Mixes everything of a sample with everything, for samples of any shape."""

    def __init__(self, shape):
        super().__init__()
        torch.manual_seed(0)
        size = int(np.prod(shape))
        self.first, self.time = nn.Linear(size, 24), nn.Linear(1, 24)
        self.last = nn.Linear(24, size)

    def forward(self, x, t):
        hidden = self.first(x.flatten(1)) + self.time(t[:, None] / 1000)
        return self.last(torch.nn.functional.silu(hidden)).view(x.shape)


@pytest.fixture(params=SHAPES, ids=str)
def case(request):
    """A module, its noise of three samples, and what the float64 loop makes of that."""
    shape, module = request.param, Mixing(request.param)
    noise = torch.randn(3, *shape, generator=torch.Generator().manual_seed(2))
    table = get_solver("dpmpp_2m").table(SCHEDULE, steps=4)

    def model(x, t):
        with torch.no_grad():
            return module(torch.from_numpy(x).float(), torch.full((3,), float(t))).numpy()

    result = run_table(table, model, table.init_noise_sigma * noise.double().numpy())[-1]
    return shape, module, noise, torch.from_numpy(result).float()


def compiled(shape, module, backend="eager", **options):
    options = {"tune": 0.001, "max_batch": 4, "precision": "float32", "cache": False} | options
    return fastdiff.compile(
        module, sample_shape=shape, schedule=SCHEDULE, backend=backend, **options
    )


@pytest.mark.parametrize("backend", ["eager", "native", "onnxruntime", "openvino"])
def test_every_backend_samples_them_as_the_plain_loop_does(case, backend):
    if not BACKENDS[backend].status().usable:
        pytest.skip(BACKENDS[backend].status().detail)
    shape, module, noise, expected = case
    sampler = compiled(shape, module, backend)
    samples = sampler.sample(latents=noise, **OPTIONS)
    torch.testing.assert_close(samples, expected, rtol=1e-4, atol=1e-4)


def test_they_are_saved_loaded_edited_and_exported(case, tmp_path):
    shape, module, noise, expected = case
    sampler = compiled(shape, module, "onnxruntime")
    sampler.save(tmp_path / "saved.fastdiff")
    loaded = fastdiff.load(tmp_path / "saved.fastdiff")
    got = loaded.sample(latents=noise, **OPTIONS)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)

    mask = torch.zeros(1, 1, *shape[1:])
    kept = sampler.sample(image=noise, mask=mask, **OPTIONS)
    torch.testing.assert_close(kept, noise)
    began = sampler.sample(image=noise, strength=0.5, **OPTIONS)
    assert began.shape == noise.shape

    network, _ = describe(module, sample_shape=shape)
    table = get_solver("dpmpp_2m").table(SCHEDULE, steps=4).pack()
    path = export_sampler(network.probed(), table, tmp_path / "loop.onnx", schedule=SCHEDULE)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (images,) = session.run(None, {"seed": np.array([5, 6])})
    alone = sampler.sample(**OPTIONS | {"seed": [5, 6]})
    torch.testing.assert_close(torch.from_numpy(images), alone, rtol=1e-4, atol=1e-4)


def test_thresholding_looks_at_the_whole_of_a_sample(case):
    shape, module, *_ = case
    schedule = Schedule(thresholding=True, sample_max_value=1.0)
    sampler = fastdiff.compile(
        module, sample_shape=shape, schedule=schedule, backend="eager", tune=0.001, cache=False
    )
    assert sampler.sample(2, steps=3, seed=1).abs().max() <= 1.0 + 1e-5


@pytest.mark.parametrize("shape", [(), (1, 2, 3, 4, 5), 7, "C, H", (3, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises((InvalidShape, InvalidArgument), match="sample_shape"):
        fastdiff.compile(Mixing((2, 2)), sample_shape=shape, schedule=SCHEDULE)


def test_a_sample_of_another_shape_is_refused_with_the_right_one(case):
    shape, module, noise, _ = case
    with pytest.raises(InvalidShape, match=r"latents: expected \(n, "):
        compiled(shape, module).sample(latents=noise[..., :-1], **OPTIONS)
