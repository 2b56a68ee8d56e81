"""A network's module at one precision, for the engines that start from the module."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from fastdiff.denoisers.base import DTYPES
from fastdiff.exporting import Network


class AtPrecision(nn.Module):
    """A private copy of `module` with weights and inputs in `dtype`; the caller's stays as it is.

    x and floating conditioning are rounded on the way in; t stays float32, because bfloat16 has
    no odd integers above 256.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = copy.deepcopy(module).eval().requires_grad_(False).to(dtype)
        self.dtype = dtype

    def forward(self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Map (B, C, H, W) to the module's output, (B, C or 2C, H, W)."""
        rounded = {
            name: value.to(self.dtype) if value.dtype.is_floating_point else value
            for name, value in conditioning.items()
        }
        output: Tensor = self.module(x.to(self.dtype), t, **rounded)
        return output


class _HalfInside(nn.Module):
    """Float32 inputs and outputs around a lower precision."""

    def __init__(self, inner: AtPrecision) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        output: Tensor = self.inner(x, t, conditioning)
        return output.to(torch.float32)

    def float(self) -> _HalfInside:  # the exporter asks for float32, which the outside is
        return self


def half_inside(network: Network, precision: str) -> Network:
    """Return `network` computing in `precision` behind its float32 interface, to be exported.

    The types in the exported file then are the precision, which strongly typed engines follow.
    """
    inner = AtPrecision(network.require_module(), DTYPES[precision])
    return replace(network, module=_HalfInside(inner), onnx=None)
