"""A network's module at one precision, for the engines that start from the module."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastdiff.denoisers.base import DTYPES, HOST
from fastdiff.errors import Unavailable
from fastdiff.exporting import Network, evaluation_copy, first_line
from fastdiff.exporting.translating import tell_names_apart

_OPSET = 20  # later ones have operators, such as Attention, that engines lack in half precision


def in_hardware(precision: str, device: torch.device) -> bool:
    """Whether `device` has instructions that torch computes `precision` with.

    Without them a large network takes tens of times as long as in float32 on a CPU.
    """
    if device.type == "cuda":
        return precision != "bfloat16" or torch.cuda.get_device_capability(device) >= (8, 0)
    probes = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
    if precision not in probes:
        return True
    probe = getattr(torch.ops.mkldnn, probes[precision], None)  # absent where oneDNN is
    return probe is not None and bool(probe())


class AtPrecision(nn.Module):
    """A private copy of `module` with weights and inputs in `dtype`; the caller's stays as it is.

    It is on `device`, where its inputs must be. x and floating conditioning are rounded on the way
    in; t stays float32, because bfloat16 has no odd integers above 256.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device = HOST) -> None:
        super().__init__()
        self.module = evaluation_copy(module).to(device, dtype)
        self.dtype, self.device = dtype, device

    def forward(self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Map (B, C, H, W) to the module's output, (B, C or 2C, H, W)."""
        rounded = {
            name: value.to(self.dtype) if value.dtype.is_floating_point else value
            for name, value in conditioning.items()
        }
        output: Tensor = self.module(x.to(self.dtype), t, **rounded)
        return output


class _HalfInside(AtPrecision):
    """Float32 output after a lower precision."""

    def forward(self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        return super().forward(x, t, conditioning).to(torch.float32)


def trace(
    module: AtPrecision, network: Network, dtype: torch.dtype
) -> torch.export.ExportedProgram:
    """Return the graph of `module` for x of `dtype`, t and conditioning.

    Its batch axis is open, unless the network's is fixed.

    Raises
    ------
    Unavailable
        torch cannot export the module; the message carries its reason.
    """
    x, t, conditioning = network.example(network.batch or 2)
    # diffusers compares the batch with 64, so no range is said
    rows = {} if network.batch else {0: torch.export.Dim.DYNAMIC}
    shapes = (rows, rows, dict.fromkeys(conditioning, rows))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own deprecations
            inputs = tree_map(lambda value: value.to(module.device), (x.to(dtype), t, conditioning))
            return torch.export.export(module, inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch raises many types here; all mean the same to a caller
        raise Unavailable(f"torch cannot export {network.name}: {first_line(error)}") from error


def export_half(network: Network, precision: str, path: Path) -> Path:
    """Write `network` as an ONNX file that computes in `precision` between float32 ends.

    Inputs and outputs are those of `fastdiff.exporting.export_onnx`. The types in the file are the
    precision, which strongly typed engines follow. onnxruntime's CPU provider lacks most of half
    precision, so unlike the float32 file this one is not compared with the module here; the
    tuner's certificate does that with the engine that runs it.

    Raises
    ------
    Unavailable
        The network is known by its file alone, or torch cannot export it.
    """
    module = _HalfInside(network.require_module(), DTYPES[precision])
    program = trace(module, network, torch.float32)
    names = ["x", "t", *network.conditioning]
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            exported: Any = torch.onnx.export(
                program, (), input_names=names, output_names=["output"], opset_version=_OPSET,
                dynamo=True, verbose=False,
            )  # fmt: skip
            tell_names_apart(exported.model)
            exported.save(path)
    except Exception as error:  # as above
        reason = f"{network.name} has no {precision} ONNX: {first_line(error)}"
        raise Unavailable(reason) from error
    finally:
        log.setLevel(level)
    return path
