"""ONNX files of others: the roles of their inputs, and the form that backends read."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foreign_onnx import answer, write_denoiser
from onnx import TensorProto

from fastdiff import errors
from fastdiff.exporting import export_onnx, read_metadata
from fastdiff.networks import Conditioning, Network, OnnxFile


def network_of(path, **options):
    file = OnnxFile.read(path, **options)
    conditioning = {
        name: Conditioning(port.row_shape, port.outside) for name, port in file.conditioning.items()
    }
    return Network(None, file.sample_shape, conditioning, "theirs", batch=file.batch, file=file)


@pytest.mark.parametrize(
    ("options", "rows"),
    [
        ({}, None),
        ({"t": TensorProto.INT64}, None),
        ({"t": TensorProto.FLOAT16, "t_shape": ("N", 1)}, None),
        ({"t": TensorProto.INT64, "t_shape": ()}, 1),
        ({"t": TensorProto.INT32, "t_shape": (1,)}, 1),
        ({"scale_shape": ("N", 1)}, None),
        ({"scale_shape": ()}, 1),
        ({"batch": 3, "t_shape": (3,), "scale_shape": (3,)}, 3),
        ({"x": TensorProto.FLOAT16}, None),
        ({"x": TensorProto.BFLOAT16, "t": TensorProto.BFLOAT16}, None),
        ({"x": TensorProto.DOUBLE}, None),
        ({"channels": 4}, None),
        ({"opset": 11}, None),
    ],
)
def test_file_is_rewritten_for_every_engine(options, rows, tmp_path):
    network = network_of(write_denoiser(tmp_path / "theirs.onnx", **options))
    assert network.batch == rows
    path = export_onnx(network, tmp_path / "ours.onnx")
    assert read_metadata(path).sample_shape == (2, 3, 5)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    x, _, conditioning = network.example(rows or 7, seed=3)
    t = torch.linspace(0, 960, len(x)).round()
    scale = conditioning["my_scalar"]
    got = session.run(None, {"x": x.numpy(), "t": t.numpy(), "my_scalar": scale.numpy()})[0]
    assert got.dtype == np.float32
    expected = answer(x.double().numpy(), t.numpy(), scale.double().numpy())
    expected = np.concatenate([expected] * (got.shape[1] // 2), 1)
    rtol = {TensorProto.FLOAT16: 3e-3, TensorProto.BFLOAT16: 3e-2}.get(options.get("x"), 1e-5)
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=rtol)


def test_times_go_to_the_nearest_integer(tmp_path):
    network = network_of(write_denoiser(tmp_path / "theirs.onnx", t=TensorProto.INT64))
    session = onnxruntime.InferenceSession(export_onnx(network, tmp_path / "ours.onnx"))
    inputs = {"x": np.ones((2, 2, 3, 5), np.float32), "my_scalar": np.ones(2, np.float32)}
    t = np.array([498.9999, 3.5001], np.float32)
    got = session.run(None, {**inputs, "t": t})[0]
    np.testing.assert_allclose(got, answer(inputs["x"], [499, 4], 1.0), rtol=1e-6, atol=1e-7)


def test_weights_beside_the_file_are_taken_along(tmp_path):
    path = write_denoiser(tmp_path / "theirs.onnx")
    onnx.save(
        onnx.load(path), path, save_as_external_data=True, location="theirs.bin", size_threshold=100
    )
    ours = export_onnx(network_of(path), tmp_path / "ours.onnx")
    (tmp_path / "theirs.bin").unlink()
    session = onnxruntime.InferenceSession(ours)
    x = np.ones((1, 2, 3, 5), np.float32)
    got = session.run(None, {"x": x, "t": np.ones(1, np.float32), "my_scalar": x[:, 0, 0, 0]})[0]
    np.testing.assert_allclose(got, answer(x, 1.0, 1.0), rtol=1e-6, atol=1e-7)


def test_roles_are_guessed_from_usual_names_and_asked_for_otherwise(tmp_path):
    path = tmp_path / "m.onnx"
    file = OnnxFile.read(write_denoiser(path, names=("Sample", "sigma")))
    assert (file.x.name, file.t.name, list(file.conditioning)) == ("Sample", "sigma", ["my_scalar"])
    write_denoiser(path, names=("a", "b"))
    with pytest.raises(
        errors.InvalidArgument,
        match=r"one input to be x by its name, got none; its inputs are a, b, my_scalar: name",
    ):
        OnnxFile.read(path)
    assert OnnxFile.read(path, {"x": "a", "t": "b"}).t.name == "b"
    with pytest.raises(errors.UnknownName, match=r"input of m.onnx 'c'; known: a, b, my_scalar"):
        OnnxFile.read(path, {"x": "a", "t": "c"})
    write_denoiser(path, names=("latent", "sigma"), scale="t")
    with pytest.raises(errors.InvalidArgument, match="to be t by its name, got sigma, t; its"):
        OnnxFile.read(path)
    with pytest.raises(errors.InvalidArgument, match="which is not x, t or output; got t"):
        OnnxFile.read(path, {"t": "sigma"})
    renamed = OnnxFile.read(path, {"t": "sigma", "strength": "t"})
    assert {name: port.name for name, port in renamed.conditioning.items()} == {"strength": "t"}


def test_open_sizes_are_asked_for_and_checked(tmp_path):
    path = write_denoiser(tmp_path / "m.onnx", size=("H", 5))
    with pytest.raises(errors.InvalidArgument, match=r"leaves its size open, \(2, open, 5\) per"):
        OnnxFile.read(path)
    assert OnnxFile.read(path, sample_shape=(2, 3, 5)).sample_shape == (2, 3, 5)
    with pytest.raises(errors.InvalidShape, match=r"takes \(2, open, 5\) per row, got \(2, 3, 4\)"):
        OnnxFile.read(path, sample_shape=(2, 3, 4))


@pytest.mark.parametrize(
    ("options", "error", "reason"),
    [
        ({"t_shape": ("N", 2)}, errors.InvalidShape, r"one time per row, got shape \(open, 2\)"),
        ({"scale_shape": (4,)}, errors.InvalidShape, "has 4 rows where x has any number of"),
        ({"batch": 4, "t_shape": (1,)}, errors.InvalidShape, "has 1 rows where x has 4"),
        ({"size": (1, 1, 1, 1)}, errors.InvalidShape, r"shape \(B, C, ...\), got torch.float32 of"),
        ({"t": TensorProto.UINT8}, errors.InvalidDtype, "'timestep' has the type UINT8"),
        ({"opset": 10}, errors.InvalidArgument, "expected opset 11 or later, got 10"),
    ],
)
def test_what_cannot_be_a_denoiser_is_refused(options, error, reason, tmp_path):
    with pytest.raises(error, match=reason):
        OnnxFile.read(write_denoiser(tmp_path / "m.onnx", **options))
