import numpy as np
import pytest
from PIL import Image

from fastdiff import errors
from fastdiff.cli import app, main
from fastdiff.cli.images import grid, save, to_uint8


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


def test_doctor_tells_what_runs(capsys):
    assert fastdiff("doctor") in (0, None)
    out = capsys.readouterr().out
    assert "in use" in out
    assert "onnxruntime" in out
    assert "CUDA kernels" in out
    assert "UNet2DModel" in out


def test_errors_are_one_sentence_and_exit_code_one(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["fastdiff", "sample", "digits", "--out", "x.gif"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert "expected a name ending in .png or .npy, got 'x.gif'" in capsys.readouterr().err


def test_help_teaches(capsys):
    fastdiff("--version")
    assert capsys.readouterr().out.startswith("fastdiff 0.")
    fastdiff()
    assert "doctor" in capsys.readouterr().out
    fastdiff("sample", "--help")
    out = capsys.readouterr().out
    assert "dpmpp_2m_sde" in out
    assert "--classes 3,7" in out


def test_pixels_are_exact(tmp_path):
    import torch

    samples = torch.tensor([-1.0, 0.0, 1.0, 2.0]).view(4, 1, 1, 1)
    assert to_uint8(samples).ravel().tolist() == [0, 128, 255, 255]
    sheet = np.asarray(grid(samples, columns=2))[::64, ::64]
    assert sheet.tolist() == [[0] * 5, [0, 0, 0, 128, 0], [0] * 5, [0, 255, 0, 255, 0], [0] * 5]
    with pytest.raises(errors.InvalidShape, match=r"save as .npy"):
        to_uint8(torch.zeros(1, 4, 2, 2))
    with pytest.raises(errors.InvalidArgument, match=r"got 'x.jpg'"):
        save(samples, tmp_path / "x.jpg", 2)
