"""Export of a torch network to ONNX."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from pathlib import Path

import onnx
import torch

from fastdiff.errors import InvalidArgument
from fastdiff.exporting.network import Network

OPSET = 20


def export_onnx(network: Network, path: Path | str) -> Path:
    """Write `network` in float32 as an ONNX file with a dynamic batch axis, and check it.

    Inputs are ``x`` (B, C, H, W) float32, ``t`` (B,) float32 and the conditioning by name; the
    output is ``output``. Weights over 2 GB go to a file beside it, as ONNX prescribes.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InvalidArgument
        torch cannot export the module; the message carries torch's reason.
    """
    path = Path(path)
    x, t, conditioning = network.example(2)
    batch = torch.export.Dim("batch", min=1, max=65536)
    names = ["x", "t", *conditioning]
    module = _DenoiserForward(
        copy.deepcopy(network.require_module()).cpu().float().eval(), list(conditioning)
    )
    arguments = (x, t, *conditioning.values())
    with _quiet():
        try:
            torch.onnx.export(
                module,
                arguments,
                str(path),
                input_names=names,
                output_names=["output"],
                dynamic_shapes={"inputs": tuple({0: batch} for _ in arguments)},
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
        except Exception as error:  # torch raises many types here; all mean the same to a caller
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise InvalidArgument(
                f"{network.name} cannot be exported to ONNX: {reason[0]}; "
                "backend='eager' runs it without export"
            ) from error
    onnx.checker.check_model(str(path))
    return path


class _DenoiserForward(torch.nn.Module):
    """Positional arguments for the exporter, keywords for the module."""

    def __init__(self, module: torch.nn.Module, names: list[str]) -> None:
        super().__init__()
        self.module, self.names = module, names

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        x, t, *rest = inputs
        output: torch.Tensor = self.module(x, t, **dict(zip(self.names, rest, strict=True)))
        return output


@contextlib.contextmanager
def _quiet():  # type: ignore[no-untyped-def]
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
