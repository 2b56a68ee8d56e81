"""A denoiser's file at the operator set that a sampler's graph is written in."""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx
import torch
from onnx import version_converter

from fastdiff.errors import InvalidArgument, ModelOutputError
from fastdiff.exporting.checking import Case, check_output, make_cases
from fastdiff.networks.network import Network
from fastdiff.networks.session import first_line, open_session

LEAST_OPSET = 18
"""The first with the bitwise operators that the noise is made of."""

_LEAST_IR_VERSION = 8  # the one that came with it


def opset_of(model: onnx.ModelProto) -> int:
    """Return the version of the standard operators."""
    version: int = max(e.version for e in model.opset_import if e.domain in {"", "ai.onnx"})
    return version


def converted(model: onnx.ModelProto, network: Network) -> onnx.ModelProto:
    """Return `model` with operators of at least `LEAST_OPSET`, and the same output.

    Parameters
    ----------
    model : ModelProto
        In the form of `export_onnx`.
    network : Network
        Whose it is.

    Raises
    ------
    InvalidArgument
        onnx cannot convert it, or what it makes of it does not run.
    ModelOutputError
        What it makes of it gives another output.
    """
    opset = opset_of(model)
    if opset >= LEAST_OPSET:
        return model
    try:
        result = version_converter.convert_version(model, LEAST_OPSET)
        result.ir_version = max(result.ir_version, _LEAST_IR_VERSION)
        with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
            old, new = Path(folder) / "old.onnx", Path(folder) / "new.onnx"
            onnx.save(model, old)
            onnx.save(result, new)
            check_output(network, _cases(network, old), new)
    except (InvalidArgument, ModelOutputError) as error:
        raise type(error)(_refusal(network, opset, error)) from error
    except Exception as error:  # onnx raises RuntimeError, ValueError and ConvertError
        raise InvalidArgument(_refusal(network, opset, error)) from error
    return result


def _cases(network: Network, path: Path) -> list[Case]:
    """Return what the file answers to some inputs."""
    session = open_session(path, network.name)

    def answer(x: torch.Tensor, t: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
        names = ["x", "t", *network.conditioning]
        feed = {name: value.numpy() for name, value in zip(names, (x, t, *rest), strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return make_cases(network, answer)


def _refusal(network: Network, opset: int, error: Exception) -> str:
    return (
        f"{network.name} has operators of opset {opset}, a sampler's file needs {LEAST_OPSET}, and "
        f"onnx cannot convert them: {first_line(error)}; export the model anew with opset "
        f"{LEAST_OPSET} or later"
    )
