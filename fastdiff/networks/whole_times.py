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
    dtype : torch.dtype
        Of the times that it takes.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype = torch.int64) -> None:
        super().__init__()
        self.module, self.dtype = module, dtype

    def forward(self, x: Tensor, t: Tensor, **conditioning: Tensor) -> Tensor:
        """Map (B, C, ...) and t (B,) float32 to the prediction."""
        output: Tensor = self.module(x, t.round().to(self.dtype), **conditioning)
        return output
