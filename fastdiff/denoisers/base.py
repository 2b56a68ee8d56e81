"""The protocol between the runtime and the engines that evaluate a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fastdiff.exporting import Network

DTYPES: dict[str, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Denoiser(Protocol):
    """A network that is ready to be evaluated by one engine at one precision.

    Attributes
    ----------
    engine, precision : str
        What it is, for reports.
    input_dtype, output_dtype : torch.dtype
        Of x and of the output; t is always float32.
    output_channels : int
        C, or 2C when the network learned a variance.
    """

    @property
    def engine(self) -> str: ...
    @property
    def precision(self) -> str: ...
    @property
    def input_dtype(self) -> torch.dtype: ...
    @property
    def output_dtype(self) -> torch.dtype: ...
    @property
    def output_channels(self) -> int: ...

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        """Prepare an evaluation of B rows on fixed buffers; each call of the result runs it anew.

        Parameters
        ----------
        x : Tensor
            (B, C, H, W) `input_dtype`, contiguous.
        t : Tensor
            (B,) float32.
        conditioning : mapping of str to Tensor
            (B, ...) each, contiguous.
        out : Tensor
            (B, `output_channels`, H, W) `output_dtype`, contiguous; overwritten by each call.
            Never aliases x.
        """
        ...


@dataclass(frozen=True)
class EngineStatus:
    """Whether an engine can run here.

    Attributes
    ----------
    usable : bool
    detail : str
        Version and device when usable; otherwise the reason and what to install.
    """

    usable: bool
    detail: str


class Engine(Protocol):
    """A way to evaluate networks: eager torch, onnxruntime, ...

    Attributes
    ----------
    name : str
    precisions : tuple of str
        What it can compute in.
    reads_onnx : bool
        Whether it reads ``network.onnx``; otherwise it runs ``network.module``.
    """

    @property
    def name(self) -> str: ...
    @property
    def reads_onnx(self) -> bool: ...
    @property
    def precisions(self) -> tuple[str, ...]: ...

    def status(self) -> EngineStatus:
        """Say whether this engine runs on this machine, and why not."""
        ...

    def build(self, network: Network, precision: str) -> Denoiser:
        """Prepare `network`, whose file is there if the engine reads ONNX.

        Raises
        ------
        Unavailable
            This machine cannot run it.
        """
        ...
