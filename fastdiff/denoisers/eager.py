"""Torch, operator by operator: runs every module, and is the reference for the other engines."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from fastdiff.denoisers.base import DTYPES, EngineStatus
from fastdiff.denoisers.precision import AtPrecision
from fastdiff.exporting import Network


class EagerEngine:
    """Evaluates the module itself under ``torch.inference_mode``."""

    name = "eager"
    precisions = ("float32", "bfloat16", "float16")
    reads_onnx = False
    slow_to_build = False

    def status(self) -> EngineStatus:
        return EngineStatus(True, f"torch {torch.__version__}, {torch.get_num_threads()} threads")

    def build(self, network: Network, precision: str, blobs: Path | None = None) -> EagerDenoiser:
        return EagerDenoiser(network, precision)


class EagerDenoiser:
    """A private copy of the module at one precision, so that the caller's stays as it is."""

    engine = "eager"

    def __init__(self, network: Network, precision: str) -> None:
        self.precision = precision
        self.input_dtype = self.output_dtype = DTYPES[precision]
        self.output_channels = network.probe()
        self._module = AtPrecision(network.require_module(), self.input_dtype)

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        def run() -> None:
            with torch.inference_mode():
                out.copy_(self._module(x, t, conditioning))

        return run

    def save(self, folder: Path, batches: Collection[int]) -> None:
        """There is nothing compiled to write."""
