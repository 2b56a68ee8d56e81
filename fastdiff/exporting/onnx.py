"""Export of a network to ONNX: a torch module, or a file that somebody else exported.

onnxscript and onnxruntime take a second to import and are imported where they are used: a process
that only loads what was compiled needs neither.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch

from fastdiff.errors import InvalidArgument
from fastdiff.exporting.checking import Case, check_output, make_cases
from fastdiff.exporting.metadata import KEY, Metadata
from fastdiff.exporting.rewriting import rewrite
from fastdiff.exporting.translating import OPSET, DenoiserForward, translate
from fastdiff.modes import compiling
from fastdiff.networks.network import Network
from fastdiff.networks.onnx_file import OnnxFile
from fastdiff.networks.weights import evaluation_copy
from fastdiff.sampling import Schedule


@compiling()
def export_onnx(
    network: Network,
    path: Path | str,
    *,
    schedule: Schedule | None = None,
    dynamic_size: bool = False,
) -> Path:
    """Write `network` in float32 as an ONNX file with a dynamic batch axis, and check it.

    Inputs are ``x`` (B, C, ...) float32, ``t`` (B,) float32 and the conditioning by name; the
    output is ``output``. Weights over 1.5 GB go to a file beside it, ``NAME.onnx.data``. The file
    is written only if onnxruntime gives the module's output with it.

    Parameters
    ----------
    network : Network
        What to export.
    path : path-like
        Where; a file that is there is replaced.
    schedule : Schedule, optional
        What the network was trained with, to be kept in the file (`read_metadata`).
    dynamic_size : bool
        Leave height and width open as well, for a network that runs at sizes besides its own. What
        sizes it takes is up to the network; a U-Net takes multiples of its downsampling factor.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InvalidArgument
        torch cannot export the module, onnxruntime cannot run the result, or the module itself
        cannot run at another size that it should be open to; the message carries the reason.
    ModelOutputError
        onnxruntime's output differs from the module's.
    """
    network = network.probed()
    with replacing(path) as written:
        if network.file is None:
            cases = _write_module(network, written, schedule, dynamic_size)
        elif dynamic_size:
            raise InvalidArgument(f"{network.name} is an ONNX file already: its size is its own")
        else:
            cases = _write_file(network, network.file, written, schedule)
        onnx.checker.check_model(str(written))
        check_output(network, cases, written)
    return Path(path)


def _write_module(
    network: Network, path: Path, schedule: Schedule | None, dynamic_size: bool
) -> list[Case]:
    """Translate the module; the copy of its weights that this takes is gone at the end."""
    module = DenoiserForward(
        evaluation_copy(network.require_module()).cpu().float(), list(network.conditioning)
    )
    cases = make_cases(network, module, dynamic_size)
    program = translate(network, module, dynamic_size)
    program.model.metadata_props[KEY] = _metadata(network, OPSET, schedule)
    program.save(path)
    return cases


def _write_file(
    network: Network, file: OnnxFile, path: Path, schedule: Schedule | None
) -> list[Case]:
    """Put the file that the network was given as into the form of an exported one."""
    evaluate, names = file.open(), list(network.conditioning)

    def answer(x: torch.Tensor, t: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        return evaluate(x, t, dict(zip(names, rest, strict=True)))

    cases = make_cases(network, answer)
    rewrite(file, path, network.probe(), _metadata(network, file.opset, schedule))
    return cases


def _metadata(network: Network, opset: int, schedule: Schedule | None) -> str:
    shape, inputs = network.sample_shape, network.conditioning
    return Metadata("denoiser", network.name, opset, shape, inputs, schedule).to_json()


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to, and move what is there to `path` if nothing was raised.

    A file beside it that holds large weights, ``NAME.onnx.data``, moves with it, and one of the
    file that was there goes with that.
    """
    path = Path(path)
    data = path.with_name(f"{path.name}.data")
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=path.parent) as folder:
        yield Path(folder) / path.name
        if not (Path(folder) / data.name).exists():
            data.unlink(missing_ok=True)
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)
