import wave

import numpy as np
import pipelines
import pytest
import torch
from PIL import Image

from fastdiff import errors
from fastdiff.cli import app, main
from fastdiff.cli.media import columns_of, grid, save, to_uint8


def fastdiff(*arguments):
    """Run the command line in this process and return its exit code."""
    with pytest.raises(SystemExit) as caught:
        app(list(arguments))
    return caught.value.code


def test_demo_writes_a_grid_of_ten_columns(tmp_path, capsys):
    path = tmp_path / "digits.png"
    assert fastdiff("demo", "--out", str(path), "--rows", "2", "--steps", "4") in (0, None)
    image = Image.open(path)
    assert image.size == ((10 * 9 + 1) * 8, (2 * 9 + 1) * 8)
    assert np.asarray(image).std() > 20
    out = capsys.readouterr().out
    assert "images/s" in out
    assert "chosen" in out


def test_sample_writes_arrays_that_the_seed_decides(tmp_path):
    paths = [tmp_path / name for name in ("a.npy", "b.npy", "c.npy")]
    for path, seed in zip(paths, ("1", "1", "2"), strict=True):
        code = fastdiff(
            "sample", "digits", "--classes", "3,7", "-n", "2", "--steps", "3", "--seed", seed,
            "--guidance", "2", "--backend", "eager", "--precision", "float32", "--out", str(path),
        )  # fmt: skip
        assert code in (0, None)
    a, b, c = (np.load(path) for path in paths)
    assert a.shape == (4, 1, 8, 8)
    np.testing.assert_allclose(a, b, atol=1e-3)  # the measured batch size may differ
    assert np.abs(a - c).max() > 0.1


def test_a_saved_model_is_sampled_from(tmp_path):
    saved = str(tmp_path / "digits.fastdiff")
    common = ["--classes", "5", "--steps", "3", "--seed", "4"]
    fastdiff("sample", "digits", *common, "--save", saved, "--out", str(tmp_path / "a.npy"))
    fastdiff("sample", saved, *common, "--out", str(tmp_path / "b.npy"))
    a, b = (np.load(tmp_path / name) for name in ("a.npy", "b.npy"))
    np.testing.assert_array_equal(a, b)


def test_a_picture_is_changed_where_the_mask_is_white(tmp_path):
    code = ["digits", "--seed", "3", "--backend", "eager", "--precision", "float32"]
    start, mask = tmp_path / "start.png", tmp_path / "mask.png"
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (8, 8), np.uint8)
    Image.fromarray(pixels).save(start)
    Image.fromarray(np.repeat(np.uint8([0, 255]), 32).reshape(8, 8)).save(mask)
    options = ["--classes", "2", "--steps", "6", "--image", str(start)]
    for name, more in (("kept", ["--mask", str(mask)]), ("free", ["--strength", "0.5"])):
        out = str(tmp_path / f"{name}.npy")
        assert fastdiff("sample", *code, *options, *more, "--out", out) in (0, None)
    kept, free = (np.load(tmp_path / f"{name}.npy")[0, 0] for name in ("kept", "free"))
    original = pixels / 127.5 - 1
    np.testing.assert_allclose(kept[:4], original[:4], atol=1e-6)
    assert np.abs(kept[4:] - original[4:]).max() > 0.1
    assert np.abs(free[:4] - original[:4]).max() > 0.1


def test_a_pipeline_is_sampled_by_its_own_arguments(tmp_path):
    pipelines.text_to_image().save_pretrained(tmp_path / "pipe")
    model = [str(tmp_path / "pipe"), "--backend", "eager", "--precision", "float32"]
    out = tmp_path / "image.npy"
    asked = ["--prompt", "ab", "--steps", "2", "--seed", "1", "-n", "2", "--out", str(out)]
    assert fastdiff("sample", *model, *asked) in (0, None)
    generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
    expected = pipelines.text_to_image()(
        "ab", num_inference_steps=2, num_images_per_prompt=2, generator=generators, output_type="np"
    ).images
    np.testing.assert_allclose(np.load(out) / 2 + 0.5, expected.transpose(0, 3, 1, 2), atol=1e-3)
    for option, reason in (
        ("--classes", "class_labels is not an argument"),
        ("--solver", "--solv"),
    ):
        with pytest.raises(errors.InvalidArgument, match=reason):
            app(["sample", *model, *asked, option, "1"], standalone_mode=False)


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("--prompt", "seven", "is for a pipeline that reads text"),
        ("--guidance-interval", "1,2,3", "expected two numbers"),
        ("--sigmas", "1,x", "expected numbers with commas between"),
        ("--image", __file__, "is not a picture"),
        ("--strength", "0.5", "strength needs image="),
    ],
)
def test_options_that_do_not_fit_are_refused(option, value, match):
    asked = ["sample", "digits", "--classes", "1", "--backend", "eager", option, value]
    with pytest.raises(errors.InvalidArgument, match=match):
        app(asked, standalone_mode=False)


def test_doctor_tells_what_runs(capsys):
    assert fastdiff("doctor") in (0, None)
    out = capsys.readouterr().out
    assert "in use" in out
    assert "onnxruntime" in out
    assert "CUDA kernels" in out
    assert "UNet2DModel" in out


def test_brackets_and_colons_in_an_error_are_printed_as_they_are(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fastdiff", "sample", "model[serve][/bold]:smile:"])
    with pytest.raises(SystemExit):
        main()
    assert "unknown model 'model[serve][/bold]:smile:'" in capsys.readouterr().err


def test_errors_are_one_sentence_and_exit_code_one(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fastdiff", "sample", "digits", "--out", "x.bmp"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "float32 array of any samples); got 'x.bmp'" in capsys.readouterr().err


def test_help_teaches(capsys):
    fastdiff("--version")
    assert capsys.readouterr().out.startswith("fastdiff 0.")
    fastdiff()
    assert "doctor" in capsys.readouterr().out
    fastdiff("sample", "--help")
    out = capsys.readouterr().out
    assert "dpmpp_2m_sde" in out
    assert "--classes 3,7" in out


@pytest.mark.parametrize(
    ("count", "group", "columns"),
    [
        (1, 1, 1),
        (10, 1, 10),  # ten classes, an image of each
        (20, 2, 10),
        (16, 8, 8),
        (30, 3, 9),
        (40, 20, 20),
        (64, 1, 10),
        (400, 1, 20),
        (400, 40, 40),
    ],
)
def test_a_grid_is_no_column_and_breaks_no_group(count, group, columns):
    assert columns_of(count, group) == columns


def test_ten_classes_stand_side_by_side(tmp_path):
    out = tmp_path / "digits.png"
    classes = ",".join(map(str, range(10)))
    code = ["--classes", classes, "--steps", "2", "--backend", "eager", "--precision", "float32"]
    assert fastdiff("sample", "digits", *code, "--out", str(out)) in (0, None)
    with Image.open(out) as picture:
        assert picture.size == ((10 * 9 + 1) * 8, (9 + 1) * 8)


@pytest.mark.parametrize("name", ["", "file/x.png"])
def test_a_file_that_cannot_be_written_is_told_before_the_work(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(errors.InvalidArgument, match="cannot be written"):
        app(["demo", "--out", str(tmp_path / name)], standalone_mode=False)


def test_pixels_are_exact(tmp_path):
    samples = torch.tensor([-1.0, 0.0, 1.0, 2.0]).view(4, 1, 1, 1)
    assert to_uint8(samples).ravel().tolist() == [0, 128, 255, 255]
    sheet = np.asarray(grid(samples, columns=2))[::64, ::64]
    assert sheet.tolist() == [[0] * 5, [0, 0, 0, 128, 0], [0] * 5, [0, 255, 0, 255, 0], [0] * 5]
    with pytest.raises(errors.InvalidShape, match=r"save as .npy"):
        to_uint8(torch.zeros(1, 4, 2, 2))
    with pytest.raises(errors.InvalidArgument, match=r"got 'x.jpg'"):
        save(samples, tmp_path / "x.jpg", 2)


def test_samples_of_every_kind_become_files(tmp_path):
    generator = torch.Generator().manual_seed(0)
    videos = torch.rand(2, 3, 5, 8, 6, generator=generator) * 2 - 1
    (made,) = save(videos, tmp_path / "videos.webp", columns=2, fps=10)
    with Image.open(made) as video:
        assert (video.n_frames, video.info["loop"]) == (5, 0)
    (made,) = save(videos, tmp_path / "videos.gif", columns=2)
    with Image.open(made) as video:
        assert video.n_frames == 5

    sound = torch.linspace(-1.5, 1.5, 40).view(2, 1, 20)
    files = save(sound, tmp_path / "sound.wav", columns=1, sample_rate=8000)
    assert [file.name for file in files] == ["sound_0.wav", "sound_1.wav"]
    with wave.open(str(files[1])) as file:
        assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (8000, 1, 20)
        values = np.frombuffer(file.readframes(20), "<i2")
    np.testing.assert_allclose(values / 32767, sound[1, 0].clamp(-1, 1), atol=1e-4)

    (made,) = save(sound, tmp_path / "sound.npy", columns=1)
    np.testing.assert_array_equal(np.load(made), sound)
    for samples, name in ((sound, "sound.png"), (sound, "sound.gif"), (videos, "videos.wav")):
        with pytest.raises((errors.InvalidShape, errors.InvalidArgument)):
            save(samples, tmp_path / name, columns=1)
    with pytest.raises(errors.InvalidArgument, match="--sample-rate: sound needs it"):
        save(sound, tmp_path / "sound.wav", columns=1)
