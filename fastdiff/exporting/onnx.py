"""Export of a torch network to ONNX.

onnxscript and onnxruntime take a second to import and are imported where they are used: a process
that only loads what was compiled needs neither.
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from fastdiff.errors import InvalidArgument, ModelOutputError
from fastdiff.exporting.metadata import KEY, Metadata
from fastdiff.exporting.network import Network
from fastdiff.sampling import Schedule

if TYPE_CHECKING:
    import onnx_ir
    import onnxruntime

OPSET = 23
"""The first with the Attention operator (docs/onnx.md has the measurements behind it)."""

MAX_RELATIVE_ERROR = 1e-3
"""Far above what float32 rounding makes of two ways to compute, far below a wrong translation."""


def export_onnx(network: Network, path: Path | str, *, schedule: Schedule | None = None) -> Path:
    """Write `network` in float32 as an ONNX file with a dynamic batch axis, and check it.

    Inputs are ``x`` (B, C, H, W) float32, ``t`` (B,) float32 and the conditioning by name; the
    output is ``output``. Weights over 2 GB go to a file beside it, as ONNX prescribes. The file is
    written only if onnxruntime gives the module's output with it.

    Parameters
    ----------
    network : Network
        What to export.
    path : path-like
        Where; a file that is there is replaced.
    schedule : Schedule, optional
        What the network was trained with, to be kept in the file (`read_metadata`).

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InvalidArgument
        torch cannot export the module, or onnxruntime cannot run the result; the message carries
        the reason.
    ModelOutputError
        onnxruntime's output differs from the module's.
    """
    module = _DenoiserForward(
        copy.deepcopy(network.require_module()).cpu().float().eval(), list(network.conditioning)
    )
    program = _translate(network, module)
    metadata = Metadata(
        "denoiser", network.name, OPSET, network.sample_shape, network.conditioning, schedule
    )
    program.model.metadata_props[KEY] = metadata.to_json()
    with replacing(path) as written:
        program.save(written)
        onnx.checker.check_model(str(written))
        _check_output(network, module, written)
    return Path(path)


@contextlib.contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a path to write to, and move what is there to `path` if nothing was raised.

    Files beside it, which hold weights over 2 GB, move with it under the names they have.
    """
    path = Path(path)
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=path.parent) as folder:
        yield Path(folder) / path.name
        for file in sorted(Path(folder).iterdir(), key=lambda file: file.name == path.name):
            file.replace(path.parent / file.name)


def open_session(path: Path, name: str) -> onnxruntime.InferenceSession:
    """Load a file on the CPU.

    Raises
    ------
    InvalidArgument
        onnxruntime refuses it.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no other root
        raise InvalidArgument(f"onnxruntime cannot load {name} as exported: {error}") from error


class _DenoiserForward(torch.nn.Module):
    """Positional arguments for the exporter, keywords for the module."""

    def __init__(self, module: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, t, *rest = inputs
        output: torch.Tensor = self.module(x, t, **dict(zip(self.names, rest, strict=True)))
        return output


def _translate(network: Network, module: _DenoiserForward) -> torch.onnx.ONNXProgram:
    x, t, conditioning = network.example(2)
    arguments = (x, t, *conditioning.values())
    batch = torch.export.Dim("batch", min=1, max=65536)
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                arguments,
                input_names=["x", "t", *conditioning],
                output_names=["output"],
                dynamic_shapes={"inputs": tuple({0: batch} for _ in arguments)},
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten.group_norm.default: _group_norm},
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # torch raises many types here; all mean the same to a caller
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InvalidArgument(
                f"{network.name} cannot be exported to ONNX: {reason[0]}; "
                "backend='eager' runs it without export"
            ) from error
    if program is None:
        raise InvalidArgument(f"{network.name} cannot be exported to ONNX: torch returned nothing")
    _strip(program.model)
    return program


def _group_norm(
    x: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:
    """aten::group_norm by InstanceNormalization.

    onnxruntime has no CPU kernel for GroupNormalization and runs its many-node definition instead,
    which takes up to twice the time (docs/onnx.md).
    """
    from onnxscript import opset23

    op: Any = opset23  # annotated for eager values, called with traced ones
    groups = op.Reshape(x, op.Constant(value_ints=[0, num_groups, -1]))
    ones, zeros = (op.Constant(value_floats=[value] * num_groups) for value in (1.0, 0.0))
    normed = op.InstanceNormalization(groups, ones, zeros, epsilon=eps)
    y = op.Reshape(normed, op.Shape(x))
    per_channel = op.Constant(value_ints=[-1, *[1] * (len(x.shape) - 2)])
    if weight is not None:
        y = op.Mul(y, op.Reshape(weight, per_channel))
    if bias is not None:
        y = op.Add(y, op.Reshape(bias, per_channel))
    return y


def _strip(model: onnx_ir.Model) -> None:
    """Remove the exporter's notes: source lines and paths of this machine, for every node."""
    from onnx_ir.traversal import RecursiveGraphIterator

    model.graph.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    for node in RecursiveGraphIterator(model.graph):
        node.metadata_props.clear()
        for value in node.outputs:
            value.metadata_props.clear()


def _check_output(network: Network, module: _DenoiserForward, path: Path) -> None:
    """Compare onnxruntime with the module, on another batch size than the one that was traced."""
    x, t, conditioning = network.example(3, seed=1)
    inputs = {"x": x, "t": t, **conditioning}
    with torch.inference_mode():
        expected = module(*inputs.values()).numpy()
    session = open_session(path, network.name)
    try:
        (got,) = session.run(None, {name: value.numpy() for name, value in inputs.items()})
    except Exception as error:  # onnxruntime's exceptions share no other root
        raise InvalidArgument(
            f"onnxruntime cannot run {network.name} as exported: {error}"
        ) from error
    scale = float(np.linalg.norm(expected)) or 1.0
    same_shape = got.shape == expected.shape
    difference = float(np.linalg.norm(got - expected)) / scale if same_shape else np.inf
    if not difference <= MAX_RELATIVE_ERROR:  # NaN is refused too
        raise ModelOutputError(
            f"{network.name} gives another output as exported: relative error {difference:.2g} in "
            f"onnxruntime, expected at most {MAX_RELATIVE_ERROR:g}; backend='eager' runs it "
            "without export"
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress prints, warnings and logging; errors still raise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
