"""Where the weights of a compiled pipeline come from, and how they change."""

import json

import numpy as np
import pipelines
import pytest
import torch
from peft import LoraConfig

import fastdiff
from fastdiff import errors
from fastdiff.integrations.pipelines import PIPELINE_CLASSES, describe_pipeline

pytestmark = pytest.mark.peer

QUICK = {"backend": "eager", "precision": "float32", "max_batch": 2, "tune": 0.01, "cache": False}
TEXT = {"prompt": "a cat", "num_inference_steps": 3, "output_type": "np"}


def images(pipe, **arguments):
    pipe.set_progress_bar_config(disable=True)
    return pipe(generator=torch.Generator().manual_seed(5), **arguments).images


def test_adapter_that_is_loaded_before_is_in_the_images():
    pipe = pipelines.text_to_image()
    plain = images(pipe, **TEXT)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_v"]))
    torch.manual_seed(7)
    for name, weight in pipe.unet.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight)
    expected = images(pipe, **TEXT)
    assert np.abs(expected - plain).max() > 0.01
    np.testing.assert_allclose(images(fastdiff.compile(pipe, **QUICK), **TEXT), expected, atol=1e-3)


def test_weights_can_be_updated():
    pipe, other = pipelines.ddim(), pipelines.ddim()
    with torch.no_grad():
        other.unet.conv_out.weight.mul_(-1)
    fast = fastdiff.compile(pipe, **QUICK)
    arguments = {"num_inference_steps": 3, "output_type": "np"}
    before = images(fast, **arguments)
    fast.update_weights(other.unet)
    expected = images(other, **arguments)
    assert np.abs(expected - before).max() > 0.1
    np.testing.assert_allclose(images(fast, **arguments), expected, rtol=0, atol=1e-3)
    assert fast.unet is other.unet


def test_other_pipelines_are_refused_by_name(tmp_path):
    index = {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(errors.UnknownName, match="pipeline class 'FluxPipeline'; known: DDIM"):
        describe_pipeline(tmp_path)
    assert len(PIPELINE_CLASSES) == 8


@pytest.mark.parametrize(
    "index",
    ["", "[]", '{"unet": ["diffusers", "UNet2DModel"]}', '{"_class_name": ["mine", "Mine"]}'],
)
def test_folder_without_a_usable_index_is_refused(tmp_path, index):
    (tmp_path / "model_index.json").write_text(index)
    with pytest.raises(
        errors.InvalidArgument, match=r"model_index.json is no index of a diffusers"
    ):
        describe_pipeline(tmp_path)


def test_components_of_other_libraries_are_never_imported(tmp_path):
    index = {"_class_name": "DDIMPipeline", "unet": ["antigravity", "UNet2DModel"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(errors.InvalidArgument, match="unet is of 'antigravity'; expected one of"):
        describe_pipeline(tmp_path)


def test_pickled_or_missing_weights_are_refused(tmp_path):
    pipelines.ddim().save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(errors.WeightsError, match="cannot be loaded"):
        describe_pipeline(tmp_path)
