"""Networks whose times are whole numbers."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class WholeTimes(nn.Module):
    """A module that looks t up in a table, made to take t in float32 as all others do.

    The time is rounded to the nearest whole number: solvers may ask for one in between, which such
    a network was never trained on.

    Parameters
    ----------
    module : nn.Module
        Takes t (B,) int64.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        """Map (B, C, H, W) and t (B,) float32 to the prediction."""
        output: Tensor = self.module(x, t.round().to(torch.int64), **conditioning)
        return output
