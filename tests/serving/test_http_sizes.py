"""Several sizes of one model: compiled for each, chosen by the request, refused by name."""

import base64
import io

import httpx
import numpy as np
import pipelines
import pytest
import torch
from diffusers_models import unet2d
from PIL import Image
from serving import running, unmeasured

import fastdiff
from fastdiff.compiler import describe
from fastdiff.errors import InvalidArgument, NonFiniteOutput
from fastdiff.integrations import is_pipeline
from fastdiff.integrations.pipelines import CompiledPipeline
from fastdiff.integrations.pipelines.families import family_of
from fastdiff.integrations.schedulers import read_scheduler
from fastdiff.serving.images import to_pixels
from fastdiff.serving.loading import ModelOptions, Source, load_models
from fastdiff.serving.service import Service
from fastdiff.serving.worker import ModelWorker

PATH = "/v1/images/generations"
SIZES = ((12, 8), (8, 16))  # width x height


def compile_unmeasured(model, *, sample_shape=None, **options):
    """As `fastdiff.compile`, on the eager backend and without a look at its speed."""
    if not is_pipeline(model):
        return unmeasured(*describe(model, sample_shape=sample_shape))
    family = family_of(type(model).__name__)
    _, schedule = read_scheduler(model.scheduler)
    sampler = unmeasured(family.describe(model, sample_shape), schedule)
    return CompiledPipeline(model, family, sampler)


@pytest.fixture
def load(monkeypatch):
    """Load a model for some sizes; returns its service."""
    monkeypatch.setattr(fastdiff, "compile", compile_unmeasured)
    workers = []

    def make_worker(name, samplers, *, observer):
        workers.append(ModelWorker(name, samplers, observer))
        return workers[-1]

    def load(model, *sizes):
        service = Service(["model"])
        load_models(service, [Source("model", str(model))], ModelOptions(sizes=sizes), make_worker)
        return service

    yield load
    for worker in workers:
        worker.close()


@pytest.fixture(scope="module")
def unet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unet")
    unet2d().save_pretrained(folder)
    return folder


def picture(b64_json):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(b64_json)))).astype(int)


def test_a_request_names_one_of_the_sizes(load, unet):
    service = load(unet, *SIZES)
    asked = {"seed": [5], "num_inference_steps": 4}
    with running(service) as url, httpx.Client(base_url=url) as client:
        answers = {
            size: client.post(PATH, json={**asked, "size": size}).json()
            for size in ("auto", "12x8", "8x16")
        }
        refused = client.post(PATH, json={**asked, "size": "8x8"})
        (shown,) = client.get("/v1/status").json()["models"]

    for size, (width, height) in zip(answers, (SIZES[0], *SIZES), strict=True):
        sampler = compile_unmeasured(unet, sample_shape=(1, height, width))
        (expected,) = to_pixels(sampler.sample(seed=[5], steps=4))[..., 0].astype(int)
        got = picture(answers[size]["data"][0]["b64_json"])
        assert got.shape == (height, width)
        assert np.abs(got - expected).max() <= 1
        assert answers[size]["size"] == f"{width}x{height}"
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "size"
    assert "12x8, 8x16, got 8x8" in refused.json()["error"]["message"]
    assert shown["parameters"]["sizes"] == ["12x8", "8x16"]


def test_a_pipelines_sizes_are_those_of_its_pictures(load, tmp_path):
    pipelines.text_to_image().save_pretrained(tmp_path)

    service = load(tmp_path, (64, 128))

    _, served = service.find("model")
    (sampler,) = served.model.samplers
    assert sampler.network.sample_shape == (4, 16, 8)
    (example,) = served.model.examples()
    assert example.size == "64x128"
    checked = served.model.check(example)
    assert (checked.width, checked.height, checked.job.size) == (64, 128, (16, 8))
    assert served.model.pixels(torch.zeros(1, 4, 16, 8)).shape == (1, 128, 64, 3)
    with pytest.raises(InvalidArgument, match=r"size 64x100 .* multiples of 8"):
        load(tmp_path, (64, 100))


def test_a_size_that_a_model_does_not_make_is_refused(load, unet):
    with pytest.raises(InvalidArgument, match=r"size 16x16 .* samples of \(1, 8, 8\)"):
        load("digits", (16, 16))
    with pytest.raises(InvalidArgument, match=r"size 9x9 .* must match"):
        load(unet, (8, 8), (9, 9))
    with pytest.raises(InvalidArgument, match="compiled for one size"):
        load("saved.fastdiff", (8, 8))


def test_every_size_makes_an_image_before_the_model_is_open(load, unet, monkeypatch):
    def break_tall(model, *, sample_shape, **options):
        network, schedule = describe(model, sample_shape=sample_shape)
        if sample_shape == (1, 16, 8):
            torch.nn.init.constant_(next(network.module.parameters()), torch.nan)
        return unmeasured(network, schedule)

    monkeypatch.setattr(fastdiff, "compile", break_tall)
    with pytest.raises(NonFiniteOutput):
        load(unet, *SIZES)
