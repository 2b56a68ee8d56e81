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
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch

from fastdiff.errors import FastdiffError, InvalidArgument, ModelOutputError
from fastdiff.exporting.metadata import KEY, Metadata
from fastdiff.exporting.network import Network
from fastdiff.sampling import Schedule

if TYPE_CHECKING:
    import onnx_ir
    import onnxruntime

OPSET = 23
"""The first with the Attention operator (docs/onnx.md has the measurements behind it)."""

_LOGGERS = ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "onnxscript", "onnx_ir")

MAX_RELATIVE_ERROR = 1e-3
"""Far above what float32 rounding makes of two ways to compute, far below a wrong translation."""


def export_onnx(
    network: Network,
    path: Path | str,
    *,
    schedule: Schedule | None = None,
    dynamic_size: bool = False,
) -> Path:
    """Write `network` in float32 as an ONNX file with a dynamic batch axis, and check it.

    Inputs are ``x`` (B, C, H, W) float32, ``t`` (B,) float32 and the conditioning by name; the
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
    module = _DenoiserForward(
        copy.deepcopy(network.require_module()).cpu().float().eval(), list(network.conditioning)
    )
    cases = _cases(network, module, dynamic_size)
    program = _translate(network, module, dynamic_size)
    metadata = Metadata(
        "denoiser", network.name, OPSET, network.sample_shape, network.conditioning, schedule
    )
    program.model.metadata_props[KEY] = metadata.to_json()
    with replacing(path) as written:
        program.save(written)
        del program, module  # the weights, which may be gigabytes, are in the file
        onnx.checker.check_model(str(written))
        _check_output(network, cases, written)
    return Path(path)


def first_line(error: BaseException) -> str:
    """Return what an error of fastdiff says, or the reason that another's pages go back to."""
    while error.__cause__ is not None and not isinstance(error, FastdiffError):
        error = error.__cause__
    first, *rest = str(error).strip().splitlines() or [type(error).__name__]
    return f"{first} {rest[0].lstrip(' -')}" if rest and first.endswith(":") else first


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


@dataclass(frozen=True)
class _Case:
    """What the module answers to some inputs, in NumPy."""

    inputs: dict[str, Any]
    expected: Any
    size: str


def _cases(network: Network, module: _DenoiserForward, dynamic_size: bool) -> list[_Case]:
    """Run the module on another batch than the traced one, and if its size is open at others."""
    channels, height, width = network.sample_shape
    shapes = [(3, height, width)]  # batch, height, width
    if dynamic_size:
        shapes += [(1, 2 * height, width), (1, height, 2 * width)]
    cases = []
    for batch, tall, wide in shapes:
        resized = replace(network, sample_shape=(channels, tall, wide))
        x, t, conditioning = resized.example(batch, seed=1)
        label = f"{tall} x {wide}"
        output = _run(network.name, module, (x, t, *conditioning.values()), label)
        if tuple(output.shape[2:]) != (tall, wide):
            raise InvalidArgument(
                f"{network.name} returns {output.shape[2]} x {output.shape[3]} for {label}"
            )
        inputs = {"x": x, "t": t, **conditioning}
        cases.append(_Case({k: v.numpy() for k, v in inputs.items()}, output.numpy(), label))
    return cases


def _run(
    name: str, module: _DenoiserForward, inputs: tuple[torch.Tensor, ...], size: str
) -> torch.Tensor:
    try:
        with torch.inference_mode():
            output: torch.Tensor = module(*inputs)
    except Exception as error:  # whatever the module raises
        raise InvalidArgument(
            f"{name} cannot be exported, since it does not run at {size}: {first_line(error)}"
        ) from error
    return output


def _translate(
    network: Network, module: _DenoiserForward, dynamic_size: bool
) -> torch.onnx.ONNXProgram:
    x, t, conditioning = network.example(2)
    arguments = (x, t, *conditioning.values())
    # Named axes, unlike torch.export.Dim, do not insist on a range: diffusers compares the batch
    # with 64 to lay memory out, which would have the whole graph traced again for up to 63 rows.
    rows = {0: "batch"}
    sample = {**rows, 2: "height", 3: "width"} if dynamic_size else rows
    with _quiet():
        try:
            program = torch.onnx.export(
                module,
                arguments,
                input_names=["x", "t", *conditioning],
                output_names=["output"],
                dynamic_shapes={"inputs": (sample, *[rows] * (len(arguments) - 1))},
                opset_version=OPSET,
                custom_translation_table={torch.ops.aten.group_norm.default: _group_norm},
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # torch raises many types here; all mean the same to a caller
            raise InvalidArgument(
                f"{network.name} cannot be exported to ONNX: {first_line(error)}; "
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


def _check_output(network: Network, cases: list[_Case], path: Path) -> None:
    """Compare onnxruntime with the module."""
    session = open_session(path, network.name)
    for case in cases:
        got = _run_session(network.name, session, case)
        scale = float(np.linalg.norm(case.expected)) or 1.0
        same_shape = got.shape == case.expected.shape
        difference = float(np.linalg.norm(got - case.expected)) / scale if same_shape else np.inf
        if not difference <= MAX_RELATIVE_ERROR:  # NaN is refused too
            raise ModelOutputError(
                f"{network.name} gives another output as exported: relative error "
                f"{difference:.2g} in onnxruntime at {case.size}, expected at most "
                f"{MAX_RELATIVE_ERROR:g}; backend='eager' runs it without export"
            )


def _run_session(name: str, session: onnxruntime.InferenceSession, case: _Case) -> Any:
    try:
        return session.run(None, case.inputs)[0]
    except Exception as error:  # onnxruntime's exceptions share no other root
        raise InvalidArgument(
            f"onnxruntime cannot run {name} as exported at {case.size}: {first_line(error)}"
        ) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter's progress prints, warnings and logging; errors still raise."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
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
