"""Torch, operator by operator: runs every module, and is the reference for the other engines."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fastdiff.denoisers.base import DTYPES, EngineStatus
from fastdiff.exporting import Network


class EagerEngine:
    """Evaluates the module itself under ``torch.inference_mode``."""

    name = "eager"
    precisions = ("float32", "bfloat16")
    reads_onnx = False

    def status(self) -> EngineStatus:
        return EngineStatus(True, f"torch {torch.__version__}, {torch.get_num_threads()} threads")

    def build(self, network: Network, precision: str) -> EagerDenoiser:
        return EagerDenoiser(network, precision)


class EagerDenoiser:
    """A private copy of the module at one precision, so that the caller's stays as it is."""

    engine = "eager"

    def __init__(self, network: Network, precision: str) -> None:
        self.precision = precision
        self.input_dtype = self.output_dtype = DTYPES[precision]
        self.output_channels = network.probe()
        self._module: nn.Module = (
            copy.deepcopy(network.require_module()).eval().requires_grad_(False)
        )
        self._module.to(self.input_dtype)

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        cast = {
            name: value.to(self.input_dtype) if value.dtype.is_floating_point else value
            for name, value in conditioning.items()
        }

        def run() -> None:
            with torch.inference_mode():
                out.copy_(self._module(x, t, **cast))

        return run
