"""Models in folders."""

import json

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from diffusers_models import dit, unet2d, unet2d_condition

import fastdiff
from fastdiff import errors
from fastdiff.integrations import is_pipeline, load_diffusers

pytestmark = pytest.mark.peer


def same_weights(one, other):
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(a == b and torch.equal(v, w) for (a, v), (b, w) in pairs)


def test_folder_gives_the_same_sampler(tmp_path):
    model = unet2d()
    DDPMPipeline(model, DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(tmp_path)
    assert is_pipeline(tmp_path)
    (tmp_path / "model_index.json").unlink()
    assert not is_pipeline(tmp_path)
    options = {"backend": "eager", "precision": "float32", "max_batch": 2, "cache": False}
    sampler = fastdiff.compile(tmp_path, **options)
    assert sampler.schedule.beta_schedule == "squaredcos_cap_v2"
    direct = fastdiff.compile(model, schedule=sampler.schedule, **options)
    images = [s.sample(2, solver="ddpm", steps=5, seed=3) for s in (sampler, direct)]
    assert torch.equal(*images)


@pytest.mark.parametrize(
    ("build", "inside"), [(unet2d, "."), (unet2d_condition, "unet"), (dit, "transformer")]
)
def test_every_class_is_found_where_diffusers_puts_it(build, inside, tmp_path):
    model = build()
    model.save_pretrained(tmp_path / inside)
    loaded, config = load_diffusers(tmp_path)
    assert type(loaded) is type(model)
    assert same_weights(loaded, model)
    assert config is None
    (tmp_path / "scheduler_config.json").write_text("{}")
    assert load_diffusers(tmp_path)[1] == tmp_path / "scheduler_config.json"


def test_dit_is_known_under_its_old_name(tmp_path):
    model = dit()
    model.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace("DiTTransformer2DModel", "Transformer2DModel"))
    assert same_weights(load_diffusers(tmp_path)[0], model)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(errors.InvalidArgument, match=r"no config.json"):
        fastdiff.compile(tmp_path)
    path = tmp_path / "config.json"
    for text in ("{", "[]", "{}", "\xff"):
        path.write_bytes(text.encode("latin-1"))
        with pytest.raises(errors.InvalidArgument, match="no configuration of a diffusers model"):
            load_diffusers(tmp_path)
    path.write_text(json.dumps({"_class_name": "AutoencoderKL"}))
    with pytest.raises(errors.UnknownName, match="'AutoencoderKL'; known: AuraFlow"):
        load_diffusers(tmp_path)


def test_pickled_or_corrupt_weights_are_refused(tmp_path):
    unet2d().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(errors.WeightsError, match="cannot be loaded"):
        fastdiff.compile(tmp_path)
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 64)
    with pytest.raises(errors.WeightsError, match="cannot be loaded"):
        fastdiff.compile(tmp_path)
