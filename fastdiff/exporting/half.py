"""A network as an ONNX file that computes in half precision between float32 ends."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastdiff.errors import Unavailable
from fastdiff.exporting.translating import tell_names_apart
from fastdiff.networks import Network, first_line
from fastdiff.networks.precision import DTYPES, AtPrecision, trace

_OPSET = 20  # later ones have operators, such as Attention, that backends lack in half precision


class _HalfInside(AtPrecision):
    """Float32 output after a lower precision."""

    def forward(self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        return super().forward(x, t, conditioning).to(torch.float32)


def export_half(network: Network, precision: str, path: Path) -> Path:
    """Write `network` as an ONNX file that computes in `precision` between float32 ends.

    Inputs and outputs are those of `fastdiff.exporting.export_onnx`. The types in the file are the
    precision, which strongly typed backends follow. onnxruntime's CPU provider lacks most of half
    precision, so unlike the float32 file this one is not compared with the module here; the
    tuner's certificate does that with the backend that runs it.

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
