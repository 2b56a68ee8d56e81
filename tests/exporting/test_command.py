"""``fastdiff export``."""

import numpy as np
import pytest
import torch
import typer

from fastdiff import errors
from fastdiff.cli.export import export
from fastdiff.exporting import read_metadata
from fastdiff.networks import Network
from fastdiff.sampling import Schedule


def fastdiff_export(*arguments):
    app = typer.Typer(pretty_exceptions_enable=False)
    app.command()(export)
    app(list(arguments), standalone_mode=False)


def snippet(out):
    """The lines that the command says will run the file."""
    return [line[2:] for line in out.split("run it with\n")[1].splitlines()]


def run_as_told(path, out):
    """Check what the command printed, run its three lines, and return the names they define."""
    assert f"wrote {path}" in out
    assert "class_labels  int64 (" in out
    lines = snippet(out)
    assert len(lines) == 3
    names: dict[str, object] = {}
    exec("\n".join(lines), names)  # noqa: S102 - what a reader of the output would do
    return names


@pytest.mark.slow
def test_command_writes_a_sampler_and_the_lines_that_run_it(tmp_path, capsys):
    path = tmp_path / "new" / "digits.onnx"
    options = ["--loop", "--solver", "dpmpp_2m", "--steps", "4", "--guidance", "2"]
    fastdiff_export("digits", str(path), *options)
    images = run_as_told(path, capsys.readouterr().out)["images"]
    assert images.shape == (2, 1, 8, 8)
    assert np.abs(images).max() > 0.5
    metadata = read_metadata(path)
    assert metadata.schedule.prediction_type == "epsilon"
    assert (metadata.steps, metadata.guidance_scale) == (4, 2.0)


def test_command_writes_a_network_and_the_lines_that_run_it(
    exported, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("fastdiff.compiler.describe", lambda *_: (exported[2], Schedule()))
    path = tmp_path / "small.onnx"
    fastdiff_export("any", str(path))
    output = run_as_told(path, capsys.readouterr().out)["output"]
    with torch.inference_mode():
        labels = torch.tensor([0, 1])
        expected = exported[2].module(
            torch.zeros(2, 2, 3, 5), torch.zeros(2), labels, torch.zeros(2, 2)
        )
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)
    assert read_metadata(path).schedule == Schedule()


class Convolution(torch.nn.Conv2d):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(2, 2, 3, padding=1)

    def forward(self, x, t):
        return super().forward(x) + t[:, None, None, None]


def test_command_leaves_the_size_open(tmp_path, capsys, monkeypatch):
    network = Network(Convolution(), (2, 3, 5), name="convolution")
    monkeypatch.setattr("fastdiff.compiler.describe", lambda *_: (network, Schedule()))
    path = tmp_path / "open.onnx"
    fastdiff_export("any", str(path), "--dynamic-size")
    out = capsys.readouterr().out
    assert "input   x  float (batch, 2, height, width)" in out
    names: dict[str, object] = {}
    exec("\n".join(snippet(out)), names)  # noqa: S102 - what a reader of the output would do
    expected = network.module(torch.zeros(2, 2, 3, 5), torch.zeros(2)).detach()
    np.testing.assert_allclose(names["output"], expected, rtol=1e-5, atol=1e-6)


def test_command_refuses_before_it_works(tmp_path):
    with pytest.raises(errors.InvalidArgument, match=r"ending in \.onnx, got 'm\.pt'"):
        fastdiff_export("digits", str(tmp_path / "m.pt"))
    with pytest.raises(errors.InvalidArgument, match="--steps has a meaning only with --loop"):
        fastdiff_export("digits", str(tmp_path / "m.onnx"), "--steps", "3")
    with pytest.raises(errors.InvalidArgument, match="--dynamic-size has a meaning only without"):
        fastdiff_export("digits", str(tmp_path / "m.onnx"), "--loop", "--dynamic-size")
    with pytest.raises(errors.UnknownName, match=r"known: .*ddim"):
        fastdiff_export("digits", str(tmp_path / "m.onnx"), "--loop", "--solver", "magic")
    assert list(tmp_path.iterdir()) == []
