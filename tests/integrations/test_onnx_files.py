"""Denoisers in ONNX files of others, from the file to the samples."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from foreign_onnx import SAMPLE_SHAPE, answer, write_denoiser
from onnx import TensorProto, helper
from torch import nn

import fastdiff
from fastdiff import Conditioning, Schedule, errors
from fastdiff.compiling import CompileOptions
from fastdiff.exporting import export_onnx
from fastdiff.integrations import describe
from fastdiff.kernels.noise import TAG_STEP
from fastdiff.kernels.noise.reference import normal
from fastdiff.networks import Network
from fastdiff.storing import cache_key

QUICK = {"backend": "onnxruntime", "tune": 0.01, "cache": False}
NAMES = {"x": "latent", "t": "timestep"}
SCALE = np.array([0.5, 1.0, 0.75, 0.9, 0.6], np.float32)


def latents(n):
    return torch.randn(n, *SAMPLE_SHAPE, generator=torch.Generator().manual_seed(2))


def ddim(x, steps):
    """DDIM of diffusers' default schedule for a network that predicts the sample, in float64."""
    levels, times = Schedule().alphas_cumprod, np.arange(steps)[::-1] * (1000 // steps)
    for t, previous in zip(times, [*times[1:], None], strict=True):
        a, b = levels[t], 1.0 if previous is None else levels[previous]
        denoised = answer(x, t, SCALE[: len(x)])
        noise = (x - np.sqrt(a) * denoised) / np.sqrt(1 - a)
        x = np.sqrt(b) * denoised + np.sqrt(1 - b) * noise
    return x


@pytest.mark.parametrize(
    "options",
    [
        {"t": TensorProto.INT64},
        {"t": TensorProto.INT64, "t_shape": ()},
        {"batch": 3, "t_shape": (3,), "scale_shape": (3,)},
    ],
    ids=["open batch", "one time for all rows", "three rows a call"],
)
def test_file_samples_as_a_loop_in_numpy_does(options, tmp_path):
    sampler = fastdiff.compile(
        write_denoiser(tmp_path / "theirs.onnx", **options),
        inputs=NAMES,
        prediction_type="sample",
        schedule={"clip_sample": False},
        **QUICK,
    )
    z = latents(5)
    got = sampler.sample(my_scalar=SCALE, latents=z, steps=4)
    np.testing.assert_allclose(got, ddim(z.double().numpy(), 4), rtol=1e-5, atol=1e-5)
    sampler.save(tmp_path / "saved.fastdiff")
    loaded = fastdiff.load(tmp_path / "saved.fastdiff")
    assert loaded.network.batch == sampler.network.batch
    assert torch.equal(loaded.sample(my_scalar=SCALE, latents=z, steps=4), got)


def test_consistency_model_takes_sigma_and_answers_the_sample(tmp_path):
    path = write_denoiser(tmp_path / "consistency.onnx", names=("sample", "sigma"))
    sampler = fastdiff.compile(
        path, prediction_type="sample", schedule=Schedule(process="ve"), **QUICK
    )
    sigmas, seeds, z = [80.0, 24.4, 5.84, 0.9], [3, 9], latents(2)
    session = onnxruntime.InferenceSession(path)
    table = fastdiff.get_solver("consistency").table(sampler.schedule, sigmas=sigmas)
    x = z.double().numpy() * table.init_noise_sigma
    for step, (sigma, following) in enumerate(zip(sigmas, [*sigmas[1:], 0.0], strict=True)):
        feeds = {"sample": x.astype(np.float32), "sigma": np.full(2, sigma, np.float32)}
        denoised = session.run(None, {**feeds, "my_scalar": SCALE[:2]})[0].astype(np.float64)
        rows = [normal(seed, 0, step, TAG_STEP, 0, 30).reshape(SAMPLE_SHAPE) for seed in seeds]
        x = denoised + following * np.stack(rows)
    got = sampler.sample(
        solver="consistency", sigmas=sigmas, seed=seeds, latents=z, my_scalar=SCALE[:2]
    )
    np.testing.assert_allclose(got, x, rtol=1e-5, atol=1e-5)


def test_caller_adds_what_the_graph_does_not_tell(tmp_path):
    path = write_denoiser(tmp_path / "m.onnx")
    sampler = fastdiff.compile(
        path, inputs={**NAMES, "gain": "my_scalar"}, prediction_type="sample",
        conditioning={"gain": Conditioning(null=1.0)}, **QUICK,
    )  # fmt: skip
    spec = sampler.network.conditioning["gain"]
    assert (spec.shape, spec.dtype, spec.null) == ((), torch.float32, 1.0)
    z = latents(2)
    left_out = sampler.sample(latents=z, steps=2)
    assert torch.equal(left_out, sampler.sample(latents=z, steps=2, gain=[1.0, 1.0]))
    assert not torch.equal(left_out, sampler.sample(latents=z, steps=2, gain=[1.0, 2.0]))
    with pytest.raises(errors.InvalidArgument, match="no input 'label'; its conditioning: my_sc"):
        describe(path, conditioning={"label": Conditioning()})


class Scaled(nn.Module):
    def forward(self, x, t, class_labels):
        return x * torch.cos(t + class_labels)[:, None, None, None]


def test_file_of_fastdiff_brings_its_schedule_and_null_values(tmp_path):
    labels = {"class_labels": Conditioning(num_classes=3, null=3)}
    schedule = Schedule(prediction_type="v_prediction", beta_schedule="scaled_linear")
    network = Network(Scaled(), SAMPLE_SHAPE, labels, "scaled")
    read, its_schedule = describe(export_onnx(network, tmp_path / "m.onnx", schedule=schedule))
    assert (read.name, read.conditioning, its_schedule) == ("scaled", labels, schedule)


def test_cache_tells_files_and_roles_apart(tmp_path):
    def key(inputs=NAMES, **options):
        path = write_denoiser(tmp_path / "m.onnx", **options)
        return cache_key(*describe(path, inputs=inputs), CompileOptions())

    keys = [key(), key(channels=4), key(inputs={**NAMES, "gain": "my_scalar"})]
    assert None not in keys
    assert len({*keys, key()}) == 3


def test_what_is_not_a_denoiser_file_is_refused(tmp_path):
    path = tmp_path / "m.onnx"
    with pytest.raises(errors.InvalidArgument, match="there is no file"):
        fastdiff.compile(path)
    path.write_bytes(b"PK\x03\x04 what")
    with pytest.raises(errors.ArtifactError, match="is no ONNX model"):
        fastdiff.compile(path)
    write_denoiser(path, scale="mask")
    with pytest.raises(errors.InvalidArgument, match="'mask' is called like an argument of Samp"):
        fastdiff.compile(path)
    with pytest.raises(errors.InvalidArgument, match="inputs= names the inputs of an ONNX file"):
        fastdiff.compile("digits", inputs=NAMES)
    for name in ("m.pt2", "m.ckpt"):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(errors.InvalidArgument, match="may hold pickled objects, which run cod"):
            fastdiff.compile(tmp_path / name)


@pytest.mark.parametrize(
    ("domain", "kind", "reason"),
    [
        ("com.example", "Run", "operators of the domain 'com.example': Run"),
        ("com.microsoft", "EPContext", "operators of the domain 'com.microsoft': EPContext"),
    ],
)
def test_operators_that_run_code_of_others_are_refused(domain, kind, reason, tmp_path):
    path = write_denoiser(tmp_path / "m.onnx")
    model = onnx.load(path)
    model.graph.node[0].domain, model.graph.node[0].op_type = domain, kind
    model.opset_import.append(helper.make_opsetid(domain, 1))
    onnx.save(model, path)
    with pytest.raises(errors.ArtifactError, match=reason):
        fastdiff.compile(path)


def test_weights_in_other_folders_are_refused(tmp_path):
    path = write_denoiser(tmp_path / "m.onnx")
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="m.bin", size_threshold=0)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../m.bin"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(errors.ArtifactError, match=r"lies in '\.\./m.bin', outside the file"):
        fastdiff.compile(path)
