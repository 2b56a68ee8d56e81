"""The examples run, and draw what they say."""

import importlib.util
from pathlib import Path

import numpy as np
import PIL.Image
import pipelines
import pytest
import torch

import fastdiff

FOLDER = Path(__file__).parents[1] / "examples"
QUICK = {"backend": "eager", "precision": "float32", "max_batch": 20, "tune": 0.01, "cache": False}
CELL = 9  # pixels from one digit to the next, before the sheet is enlarged eightfold


def run(name, *argv):
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main([str(word) for word in argv])


@pytest.fixture(scope="module")
def sampler():
    return fastdiff.compile("digits", **QUICK)


@pytest.fixture
def digits(sampler, monkeypatch):
    """Have the scripts use a sampler that is ready."""
    monkeypatch.setattr(fastdiff, "compile", lambda model: sampler)
    return sampler


@pytest.fixture
def quick(monkeypatch):
    """Have the scripts compile quickly."""
    compile = fastdiff.compile
    monkeypatch.setattr(fastdiff, "compile", lambda model, **_: compile(model, **QUICK))


def cells(path, rows, columns):
    """Return the digits of a sheet, (rows, columns, 8, 8) in [-1, 1]."""
    sheet = np.asarray(PIL.Image.open(path))[::8, ::8].astype(np.float32) / 127.5 - 1
    assert sheet.shape == (rows * CELL + 1, columns * CELL + 1)
    return np.stack(
        [
            [sheet[1 + r * CELL :][:8, 1 + c * CELL :][:, :8] for c in range(columns)]
            for r in range(rows)
        ]
    )


def test_unconditional_steps_converge_to_one_image(digits, tmp_path, capsys):
    run("unconditional", "--count", 4, "--steps", 2, 20, 30, "--png", tmp_path / "a.png")
    coarse, fine, last = cells(tmp_path / "a.png", 3, 4)
    assert np.abs(fine - last).mean() < 0.02 < np.abs(coarse - last).mean()
    assert "0.0000 from the last row" in capsys.readouterr().out


def test_class_guided_rows_are_the_scales_alone(digits, tmp_path):
    run(
        "class_guided",
        "--labels",
        3,
        8,
        "--scales",
        1,
        3,
        "--steps",
        4,
        "--png",
        tmp_path / "b.png",
    )
    drawn = cells(tmp_path / "b.png", 2, 2)
    alone = digits.sample(class_labels=[8], guidance_scale=3.0, seed=[1], steps=4)
    np.testing.assert_allclose(drawn[1, 1], alone[0, 0].clamp(-1, 1), atol=1 / 127)


def test_inversion_gives_the_digits_back_and_edits_them(digits, tmp_path, capsys):
    run("inversion", "--labels", 3, 4, "--steps", 40, "--png", tmp_path / "c.png")
    digit, again, edited = cells(tmp_path / "c.png", 3, 2)
    assert np.abs(again - digit).mean() < 0.05 < np.abs(edited - digit).mean()
    assert "gives the digits back up to 0.0" in capsys.readouterr().out


def test_inpainting_keeps_the_upper_half(digits, tmp_path):
    run("inpainting", "--labels", 2, 5, "--rows", 2, "--steps", 10, "--png", tmp_path / "d.png")
    digit, kept, one, other = cells(tmp_path / "d.png", 4, 2)
    for row in (kept, one, other):
        np.testing.assert_allclose(row[:, :4], digit[:, :4], atol=1 / 127)
    assert np.abs(one[:, 4:] - other[:, 4:]).mean() > 0.02


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "pipeline", "arguments", "count"),
    [
        ("latent", "class_conditional", ("--labels", 3, 5, 7), 3),
        ("text_to_image", "text_to_image", ("a cat", "--negative", "dog", "--count", 2), 2),
    ],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers
def test_pipelines_are_drawn_from_their_folders(
    quick, tmp_path, name, pipeline, arguments, count, capsys
):
    pipe = getattr(pipelines, pipeline)()
    pipe.save_pretrained(tmp_path / "folder")
    out = tmp_path / "images.png"
    run(name, tmp_path / "folder", *arguments, "--steps", 3, "--png", out)
    sheet = np.asarray(PIL.Image.open(out)).astype(np.float32)
    size = sheet.shape[0]
    assert sheet.shape == (size, count * size, 3)
    first, second = sheet[:, :size], sheet[:, size : 2 * size]
    assert first.std() > 5
    assert np.abs(first - second).mean() > 5  # each image has noise of its own
    assert "eager" in capsys.readouterr().out
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "name",
    ["unconditional", "class_guided", "inversion", "inpainting", "latent", "text_to_image"],
)
def test_every_example_has_help_that_shows_how_it_is_called(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        run(name, "--help")
    assert f"python examples/{name}.py" in capsys.readouterr().out
