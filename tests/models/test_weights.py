import json

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from fastdiff.errors import WeightsError
from fastdiff.models import MAX_WEIGHTS_BYTES, DigitsUNet, digits_schedule_config, load_digits


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.safetensors"


@pytest.fixture
def tensors():
    return DigitsUNet().state_dict()


@pytest.fixture(scope="module")
def complete_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "complete.safetensors"
    save_file(DigitsUNet().state_dict(), path)
    return path


def test_loaded_weights_are_those_saved(path, tensors):
    save_file(tensors, path)
    model = load_digits(path)
    path.unlink()
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, tensors[name]), name


def test_loading_leaves_the_random_state_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    load_digits()
    assert torch.equal(torch.get_rng_state(), before)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
@given(data=st.data())
def test_file_truncated_anywhere_is_refused(path, complete_file, data):
    content = complete_file.read_bytes()
    path.write_bytes(content[: data.draw(st.integers(0, len(content) - 1))])
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        load_digits(path)


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x04pickle", b"\xff" * 64])
def test_foreign_file_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        load_digits(path)


def test_pickled_checkpoint_is_refused(path, tensors):
    torch.save(tensors, path)
    with pytest.raises(WeightsError, match="not a complete safetensors file"):
        load_digits(path)


def test_missing_file_and_folder_are_refused(path, tmp_path):
    with pytest.raises(WeightsError, match="no file is there"):
        load_digits(path)
    with pytest.raises(WeightsError, match="no file is there"):
        load_digits(tmp_path)


def test_oversized_file_is_refused_by_its_size(path):
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(WeightsError, match=f"1,073,741,824 bytes.*{MAX_WEIGHTS_BYTES:,}"):
        load_digits(path)


def test_missing_and_unknown_tensors_are_named(path, tensors):
    tensors["conv_gone.weight"] = tensors.pop("conv_in.weight")
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"missing.*conv_in\.weight;.*unknown.*conv_gone\.w"):
        load_digits(path)


def test_long_lists_of_names_are_cut(path):
    save_file({f"layer{i}": torch.zeros(1) for i in range(7)}, path)
    with pytest.raises(WeightsError, match=r"layer0, layer1, layer2, layer3 and 3 more"):
        load_digits(path)


def test_other_shape_is_refused(path, tensors):
    tensors["conv_in.weight"] = torch.zeros(32, 3, 3, 3)
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"'conv_in\.weight' is \(32, 3, 3, 3\).*\(32, 1, 3, 3"):
        load_digits(path)


def test_other_dtype_is_refused(path, tensors):
    tensors["conv_in.weight"] = tensors["conv_in.weight"].half()
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"float16, expected .* torch\.float32"):
        load_digits(path)


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_non_finite_weights_are_refused(path, tensors, value):
    tensors["conv_out.bias"] = torch.tensor([value])
    save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"'conv_out\.bias' .* NaN or infinity"):
        load_digits(path)


def test_shipped_schedule_is_the_linear_one_of_ddpm():
    config = digits_schedule_config()
    assert config["prediction_type"] == "epsilon"
    assert config["beta_schedule"] == "linear"
    assert (config["beta_start"], config["beta_end"]) == (0.0001, 0.02)
    assert config["num_train_timesteps"] == 1000


def test_schedule_travels_with_the_weights(path, tensors):
    save_file(tensors, path, metadata={"schedule": json.dumps({"beta_end": 0.25})})
    assert digits_schedule_config(path) == {"beta_end": 0.25}


@pytest.mark.parametrize("metadata", [None, {"other": "x"}, {"schedule": "{"}, {"schedule": "[1]"}])
def test_unusable_schedule_is_refused(path, tensors, metadata):
    save_file(tensors, path, metadata=metadata)
    with pytest.raises(WeightsError, match="expected a JSON object"):
        digits_schedule_config(path)
