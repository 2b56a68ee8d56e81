"""A saved sampler gives the same images, and nothing that was tampered with is used."""

import copy
import io
import json
import pickle
import zipfile

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import fastdiff
from fastdiff import errors
from fastdiff.backends import BACKENDS, Denoiser
from fastdiff.backends.onnxruntime import OnnxRuntimeDenoiser
from fastdiff.storing import artifact, load_artifact, recalling


class Blend(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.label = nn.Embedding(4, 1)

    def forward(self, x, t, class_labels):
        return torch.tanh(self.conv(x)) + self.label(class_labels)[:, :, None, None] * 0.1


@pytest.fixture(scope="module")
def sampler():
    return fastdiff.compile(
        Blend(), sample_shape=(1, 5, 4), num_classes=3, null_class=3, backend="onnxruntime"
    )


@pytest.fixture(scope="module")
def saved(sampler, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "blend.fastdiff"
    sampler.save(path)
    return path


OPTIONS = {"class_labels": [0, 2], "guidance_scale": 2.0, "seed": 3, "steps": 6, "eta": 0.5}


def test_a_loaded_sampler_gives_the_same_bits_and_measures_nothing(sampler, saved, monkeypatch):
    monkeypatch.setattr(recalling, "tune", lambda *args, **kwargs: pytest.fail("measured again"))
    loaded = fastdiff.load(saved, verify=True)
    assert torch.equal(loaded.sample(**OPTIONS), sampler.sample(**OPTIONS))
    assert loaded.schedule == sampler.schedule
    assert str(loaded.report) == str(sampler.report)
    kept, probes = loaded._compiled.reference.probes, sampler._compiled.reference.probes
    assert probes.conditioning["class_labels"].tolist() == [3]  # the null class
    assert torch.equal(kept.conditioning["class_labels"], probes.conditioning["class_labels"])
    assert torch.equal(kept.outputs, probes.outputs)
    with pytest.raises(errors.InvalidArgument, match="labels from 0 to 2"):
        loaded.sample(class_labels=[3])


def test_a_sampler_is_pickled_and_copied_as_what_it_saves(sampler, monkeypatch):
    monkeypatch.setattr(recalling, "tune", lambda *args, **kwargs: pytest.fail("measured again"))
    other = sampler.with_schedule(fastdiff.Schedule(num_train_timesteps=100))
    unpickled = pickle.loads(pickle.dumps(other))  # noqa: S301  what this test wrote
    for made in (unpickled, copy.deepcopy(other)):
        assert made.engine is not other.engine
        assert made.schedule == other.schedule
        assert torch.equal(made.sample(**OPTIONS), other.sample(**OPTIONS))
    assert copy.copy(other).engine is other.engine


def test_a_loaded_sampler_can_be_saved_again(sampler, saved, tmp_path):
    fastdiff.load(saved).save(tmp_path / "again.fastdiff")
    again = fastdiff.load(tmp_path / "again.fastdiff")
    assert torch.equal(again.sample(**OPTIONS), sampler.sample(**OPTIONS))


def test_another_machine_measures_again_without_the_module(sampler, saved, monkeypatch):
    monkeypatch.setattr(artifact, "fingerprint", lambda: "elsewhere")
    loaded = fastdiff.load(saved)
    refused = {c.backend: c.refusal for c in loaded.report.candidates if c.refusal}
    assert "no torch module" in refused["eager"]
    # A machine that computes bfloat16 fast may choose it, within its certificate.
    tolerance = 1e-4 if loaded.report.chosen.precision == "float32" else 0.2
    torch.testing.assert_close(
        loaded.sample(**OPTIONS), sampler.sample(**OPTIONS), rtol=0, atol=tolerance
    )


def test_an_error_inside_the_engine_of_a_file_lets_others_be_measured(
    sampler, saved, monkeypatch, caplog
):
    def build(*args):
        raise KeyError("dedup_17")

    monkeypatch.setattr(recalling, "build_denoiser", build)
    monkeypatch.setattr(recalling, "tune", lambda *args: sampler._compiled)
    assert fastdiff.load(saved).report is sampler.report
    assert "raise KeyError" in caplog.text


def rewrite(path, target, change):
    """Copy an artifact with its entries changed by `change(entries)`, hashes as they were."""
    with zipfile.ZipFile(path) as archive:
        entries = {info.filename: archive.read(info) for info in archive.infolist()}
    change(entries)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return target


def rehash(entries):
    """Make the manifest fit the entries, as an attacker would."""
    manifest = json.loads(entries["manifest.json"])
    import hashlib

    manifest["files"] = {
        name: hashlib.sha256(data).hexdigest()
        for name, data in entries.items()
        if name != "manifest.json"
    }
    entries["manifest.json"] = json.dumps(manifest).encode()


def in_manifest(**changes):
    def change(entries):
        manifest = {**json.loads(entries["manifest.json"]), **changes}
        entries["manifest.json"] = json.dumps(manifest).encode()

    return change


def in_model(edit):
    def change(entries):
        model = onnx.load_from_string(entries["denoiser.onnx"])
        edit(model)
        entries["denoiser.onnx"] = model.SerializeToString()
        rehash(entries)

    return change


def huge_tensor(model):
    model.graph.initializer[0].dims[:] = [10_000_000_000]


def outside_tensor(model):
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/passwd")


def foreign_operator(model):
    model.graph.node[0].domain = "com.example"


def flip(name):
    def change(entries):
        data = bytearray(entries[name])
        data[len(data) // 2] ^= 1
        entries[name] = bytes(data)

    return change


def add(name, data=b"x"):
    def change(entries):
        entries[name] = data
        rehash(entries)

    return change


def bad_reference(entries):
    from safetensors.numpy import load, save

    tensors = load(entries["reference.safetensors"])
    tensors["states"] = np.zeros((2, 3), np.float32)
    entries["reference.safetensors"] = save(tensors)
    rehash(entries)


TAMPERED = {
    "a flipped bit in the network": (flip("denoiser.onnx"), "denoiser.onnx does not have the hash"),
    "a flipped bit in the reference": (flip("reference.safetensors"), "does not have the hash"),
    "a path out of the folder": (add("../evil.py"), "name '../evil.py'"),
    "an absolute path": (add("/tmp/evil"), "name '/tmp/evil'"),
    "a hidden file": (add(".bashrc"), "name '.bashrc'"),
    "a file that is not listed": (lambda e: e.update(extra=b"x"), "does not list the entries"),
    "a missing network": (lambda e: e.pop("denoiser.onnx"), "does not list the entries"),
    "no manifest": (lambda e: e.pop("manifest.json"), "no manifest.json"),
    "a later format": (in_manifest(format=5), "has format 5, this version of fastdiff reads 4"),
    "an earlier format": (in_manifest(format=2), "has format 2"),
    "a manifest without a schedule": (in_manifest(schedule=None), "does not hold what its format"),
    "an impossible shape": (in_manifest(sample_shape=[1, 5]), "does not hold what its format"),
    "a wrong shape": (in_manifest(sample_shape=[1, 4, 5]), "does not hold what its format"),
    "a tensor of 10 GB": (in_model(huge_tensor), "declares 40000000000 bytes and holds"),
    "a tensor in another file": (in_model(outside_tensor), "lies in '../../../../etc/passwd'"),
    "an operator of somebody's own": (in_model(foreign_operator), "the domain 'com.example'"),
    "a pickle for a network": (add("denoiser.onnx", b"\x80\x04cos\nsystem\n."), "no ONNX model"),
    "a reference of another shape": (bad_reference, "states is"),
    "a compiled file out of its folder": (add("blob-../evil"), "name 'blob-../evil'"),
    "a compiled file called ..": (add("blob-.."), "name 'blob-..'"),
    "a compiled file that was changed": (
        lambda e: (add("blob-1.blob")(e), flip("blob-1.blob")(e)),
        "blob-1.blob does not have the hash",
    ),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_tampering_is_refused_by_name(saved, tmp_path, what):
    change, message = TAMPERED[what]
    path = rewrite(saved, tmp_path / "bad.fastdiff", change)
    before = sorted(tmp_path.parent.rglob("*"))
    with pytest.raises(errors.ArtifactError, match=message):
        fastdiff.load(path)
    assert sorted(tmp_path.parent.rglob("*")) == before  # nothing was written beside it


def test_compressed_truncated_and_foreign_files_are_refused(saved, tmp_path):
    bomb = tmp_path / "bomb.fastdiff"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b" " * 5_000_000)
    with pytest.raises(errors.ArtifactError, match="compressed"):
        fastdiff.load(bomb)
    data = saved.read_bytes()
    cut = tmp_path / "cut.fastdiff"
    for length in (0, 100, len(data) // 2, len(data) - 1):
        cut.write_bytes(data[:length])
        with pytest.raises(errors.ArtifactError, match=r"cut\.fastdiff"):
            fastdiff.load(cut)
    with pytest.raises(FileNotFoundError):
        fastdiff.load(tmp_path / "missing.fastdiff")


def test_a_declared_size_beyond_the_file_is_refused_before_it_is_read(saved, tmp_path):
    buffer = io.BytesIO(saved.read_bytes())
    data = bytearray(buffer.getvalue())
    with zipfile.ZipFile(buffer) as archive:
        start = archive.start_dir
    entry = data.index(b"PK\x01\x02", start)
    data[entry + 20 : entry + 28] = (0x7FFFFFFF).to_bytes(4, "little") * 2  # both sizes
    path = tmp_path / "large.fastdiff"
    path.write_bytes(data)
    with pytest.raises(errors.ArtifactError):
        fastdiff.load(path)


def test_verify_notices_that_the_engine_is_not_what_it_was(saved, monkeypatch):
    class Drifted(Denoiser):
        def __init__(self, denoiser):
            self.__dict__.update(inner=denoiser)

        def __getattr__(self, name):
            return getattr(self.inner, name)

        def bind(self, x, t, conditioning, out):
            run = self.inner.bind(x, t, conditioning, out)
            return lambda: (run(), out.mul_(1.01))

    build = recalling._build
    monkeypatch.setattr(recalling, "_build", lambda *args: Drifted(build(*args)))
    fastdiff.load(saved)
    with pytest.raises(errors.ArtifactError, match="is not what it was: output error"):
        fastdiff.load(saved, verify=True)


def test_a_model_that_cannot_be_exported_cannot_be_saved(tmp_path):
    class Branches(nn.Module):
        def forward(self, x, t):
            return x if x.sum() > 0 else -x

    sampler = fastdiff.compile(Branches(), sample_shape=(1, 2, 2))
    assert sampler.report.chosen.backend == "eager"
    with pytest.raises(errors.InvalidArgument, match="cannot be exported to ONNX"):
        sampler.save(tmp_path / "m.fastdiff")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def compiled_code(sampler, tmp_path, monkeypatch):
    """Save a sampler whose backend has compiled code; return the file, and what loading runs."""
    ran = []
    build = BACKENDS["onnxruntime"].build

    def reading(network, precision, blobs=None):
        ran.append(blobs and [path.read_bytes() for path in blobs.iterdir()])
        return build(network, precision)

    save = lambda self, folder, batches: (folder / "code.bin").write_bytes(b"code")
    monkeypatch.setattr(OnnxRuntimeDenoiser, "save", save)
    monkeypatch.setattr(BACKENDS["onnxruntime"], "build", reading, raising=False)
    monkeypatch.setattr(recalling, "tune", lambda *args: pytest.fail("measured again"))
    path = tmp_path / "code.fastdiff"
    sampler.save(path)
    return path, ran


def load_code(path, **options):
    return load_artifact(path, lambda stage: None, **options)


def test_code_that_this_user_compiled_is_not_compiled_again(sampler, compiled_code):
    path, ran = compiled_code
    assert torch.equal(fastdiff.load(path).sample(**OPTIONS), sampler.sample(**OPTIONS))
    assert ran == [[b"code"]]


def test_code_from_elsewhere_never_runs_unless_it_is_trusted(
    compiled_code, tmp_path_factory, monkeypatch
):
    path, ran = compiled_code
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path_factory.mktemp("another-user")))
    load_code(path)
    load_code(path, trust_blobs=True)
    assert ran == [None, [b"code"]]


def in_record(**changes):
    def change(entries):
        manifest = json.loads(entries["manifest.json"])
        (record,) = manifest["machines"].values()
        record.update(changes)
        entries["manifest.json"] = json.dumps(manifest).encode()

    return change


@pytest.mark.parametrize(
    "change",
    [
        add("blob-code.bin", b"evil"),
        add("blob-more.bin", b"evil"),
        lambda entries: (entries.pop("blob-code.bin"), add("blob-1.bin", b"code")(entries)),
        in_model(lambda model: setattr(model, "doc_string", "another network")),
        in_record(signature=""),
        in_record(signature="0" * 64),
    ],
)
def test_a_signature_covers_the_code_and_what_it_was_compiled_for(compiled_code, tmp_path, change):
    path, ran = compiled_code
    load_code(rewrite(path, tmp_path / "changed.fastdiff", change))
    assert ran == [None]


def test_code_for_another_machine_is_left_alone(compiled_code, monkeypatch):
    path, ran = compiled_code
    monkeypatch.setattr(artifact, "fingerprint", lambda: "elsewhere")
    measured = artifact.Artifact(path).measured_here(trust_blobs=True)
    assert measured is None
    assert ran == []


def test_code_that_does_not_load_is_compiled_again(compiled_code, sampler, monkeypatch):
    path, ran = compiled_code
    reading = BACKENDS["onnxruntime"].build

    def refusing(network, precision, blobs=None):
        denoiser = reading(network, precision, blobs)
        if blobs is not None:
            raise errors.Unavailable("of another version")
        return denoiser

    monkeypatch.setattr(BACKENDS["onnxruntime"], "build", refusing, raising=False)
    assert torch.equal(fastdiff.load(path).sample(**OPTIONS), sampler.sample(**OPTIONS))
    assert ran == [[b"code"], None]


def test_without_a_place_for_a_key_nothing_is_signed_or_trusted(
    compiled_code, sampler, tmp_path, monkeypatch
):
    path, ran = compiled_code
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path / "file"))
    load_code(path)
    unsigned = tmp_path / "unsigned.fastdiff"
    sampler.save(unsigned)
    load_code(unsigned)
    assert ran == [None, None]
