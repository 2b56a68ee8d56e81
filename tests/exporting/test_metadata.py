"""What exported files say about themselves."""

import json
from dataclasses import replace

import onnx
import pytest
import torch
from onnx import helper

from fastdiff import errors
from fastdiff.exporting import Metadata, export_onnx, export_sampler, read_metadata
from fastdiff.exporting.metadata import KEY, MAX_METADATA_BYTES
from fastdiff.networks import Conditioning
from fastdiff.sampling import Schedule, get_solver

SCHEDULE = Schedule(prediction_type="v_prediction", beta_schedule="scaled_linear")
METADATA = Metadata("denoiser", "net", 23, (3, 8, 9), {"y": Conditioning(num_classes=3)}, SCHEDULE)


def write(path, text, **more):
    """A small model that carries `text`."""
    graph = helper.make_graph([], "g", [], [])
    model = helper.make_model(graph)
    helper.set_model_props(model, {KEY: text, **more})
    path.write_bytes(model.SerializeToString())
    return path


def test_file_of_a_network_says_what_it_is(exported, tmp_path):
    network = replace(exported[2], onnx=None)
    found = read_metadata(export_onnx(network, tmp_path / "net.onnx", schedule=SCHEDULE))
    assert (found.kind, found.name, found.opset) == ("denoiser", "small", 23)
    assert found.sample_shape == (2, 3, 5)
    assert found.schedule == SCHEDULE
    assert (found.steps, found.guidance_scale) == (None, None)
    assert found.conditioning["class_labels"] == network.conditioning["class_labels"]
    style = found.conditioning["style"]
    assert (style.shape, style.dtype, style.num_classes) == ((2,), torch.float32, None)
    torch.testing.assert_close(style.null_value(), network.conditioning["style"].null_value())


def test_file_of_a_sampler_says_how_it_samples(exported, tmp_path):
    table = get_solver("ddim").table(SCHEDULE, steps=7).pack()
    path = export_sampler(
        exported[2], table, tmp_path / "s.onnx", guidance_scale=1.5, schedule=SCHEDULE
    )
    found = read_metadata(path)
    assert (found.kind, found.steps, found.guidance_scale) == ("sampler", 7, 1.5)
    assert found.schedule == SCHEDULE


def test_schedule_can_be_read_without_fastdiff(tmp_path):
    props = onnx.load(write(tmp_path / "m.onnx", METADATA.to_json())).metadata_props
    fields = json.loads(props[0].value)
    assert (props[0].key, fields["format"]) == ("fastdiff", 1)
    assert fields["prediction_type"] == "v_prediction"
    assert fields["schedule"]["beta_schedule"] == "scaled_linear"
    assert fields["conditioning"]["y"] == {
        "shape": [], "dtype": "int64", "null": None, "num_classes": 3, "value_range": None,
    }  # fmt: skip


def test_other_entries_and_big_graphs_are_passed_over(tmp_path):
    path = write(tmp_path / "m.onnx", METADATA.to_json(), author="someone")
    big = b"\x3a" + varint(5_000_000) + bytes(5_000_000)  # field 7, the graph: never parsed
    path.write_bytes(big + path.read_bytes())
    assert read_metadata(path) == METADATA


def varint(number):
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


@pytest.mark.parametrize(("content", "message"), [
    (b"\x3a" + varint(1 << 40), r"field 7 declares 1099511627776 bytes, 0 are left"),
    (b"\x72" + varint(1 << 40) + b"abc", r"field 14 declares 1099511627776 bytes, 3 are left"),
    (b"\x72" + varint(MAX_METADATA_BYTES + 1) + bytes(MAX_METADATA_BYTES + 1), "at most 16777216"),
    (b"\x72\x02\xff\xff", "entry is damaged"),
    (b"\xff" * 20, "no ONNX model"),
    (b"\x3a\x80", "ends too early"),
    (b"not a model", "no ONNX model"),
    (b"", "one metadata entry 'fastdiff', got 0"),
])  # fmt: skip
def test_damaged_files_are_refused(content, message, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    with pytest.raises(errors.InvalidArgument, match=message):
        read_metadata(path)


@pytest.mark.parametrize(("change", "message"), [
    ({"format": 2}, "expected metadata of format 1, got 2"),
    ({"kind": "poem"}, "kind 'poem' is none of denoiser, sampler"),
    ({"sample_shape": [1, 2, 3, 4, 5]}, "expected one to 4 sizes"),
    ({"sample_shape": [1, 2, 0]}, "sample_shape must be a whole number of at least 1"),
    ({"conditioning": {"y": {}}}, "damaged: KeyError"),
    ({"conditioning": {"y": {"shape": [], "dtype": "object", "null": 0, "num_classes": 1}}},
     "damaged: KeyError"),
    ({"schedule": {"beta_schedule": "wiggly"}}, "unknown beta_schedule"),
    ({"kind": "sampler"}, "damaged: KeyError"),
])  # fmt: skip
def test_wrong_metadata_are_refused(change, message, tmp_path):
    text = json.dumps({**json.loads(METADATA.to_json()), **change})
    with pytest.raises(errors.InvalidArgument, match=message):
        read_metadata(write(tmp_path / "m.onnx", text))


@pytest.mark.parametrize("text", ["", "[]", "3", '"x"', "{", "[" * 100_000])
def test_metadata_that_are_no_object_are_refused(text, tmp_path):
    with pytest.raises(errors.InvalidArgument, match=r"m\.onnx: the metadata are damaged"):
        read_metadata(write(tmp_path / "m.onnx", text))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(errors.InvalidArgument, match=r"no file .*none\.onnx"):
        read_metadata(tmp_path / "none.onnx")
