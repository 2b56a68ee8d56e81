"""Networks that the tests of several rooms share."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from fastdiff.backends import BACKENDS
from fastdiff.compiling.compiled import Compiled, Workspace
from fastdiff.compiling.report import Candidate, Report
from fastdiff.compiling.trajectory import reference_trajectory
from fastdiff.networks import Conditioning, Network
from fastdiff.sampler.sampler import Sampler
from fastdiff.sampling import Schedule

NULL_LABEL = 4


class RowByRow(nn.Module):
    """A nonlinear denoiser that computes each row by itself, so a row's bits know no batch."""

    calls: ClassVar[list[int]] = []  # of the class, since backends run copies of the module

    def __init__(self, channels_out: int = 2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(15, 15, generator=generator) / 6)
        self.labels = nn.Parameter(torch.randn(5, 15, generator=generator))
        self.channels_out = channels_out

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        self.calls.append(len(x))
        rows = [self.row(*row) for row in zip(x, t, class_labels, strict=True)]
        return torch.stack(rows)

    def row(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        # clone(): BLAS may round differently for another memory alignment.
        hidden = self.weight @ x.flatten().clone() + self.labels[label] * torch.cos(0.003 * t)
        hidden = torch.tanh(hidden)
        out = hidden.view(1, 3, 5)
        return out if self.channels_out == 1 else torch.cat([out, torch.sin(3 * out)])


def row_by_row_network(channels_out: int = 2) -> Network:
    """(1, 3, 5) samples, labels 0 to 3, null label 4, with a learned variance by default."""
    labels = Conditioning(num_classes=NULL_LABEL, null=NULL_LABEL)
    return Network(RowByRow(channels_out), (1, 3, 5), {"class_labels": labels}, "row-by-row")


def eager_sampler(
    network: Network, schedule: Schedule | None = None, batch: int = 4, max_rows: int | None = None
) -> Sampler:
    """Build a sampler without measuring anything."""
    denoiser = BACKENDS["eager"].build(network, "float32")
    schedule = schedule or Schedule()
    compiled = Compiled(
        network=network,
        schedule=schedule,
        reference=reference_trajectory(network, denoiser, schedule),
        denoiser=denoiser,
        batch_seconds={batch: 1.0},
        report=Report(network.name, "", [Candidate("eager", "float32", chosen_from=1)]),
        workspace=Workspace(),
    )
    return Sampler(compiled, max_rows)


class Mixer(nn.Module):
    """A few layers, exact enough in float32 and worse in bfloat16."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        torch.manual_seed(1)
        self.inner = nn.Conv2d(1, 8, 3, padding=1)
        self.outer = nn.Conv2d(8, 1, 3, padding=1)
        self.scale = scale

    def forward(self, x, t):
        hidden = torch.tanh(self.inner(x) + (t / 1000)[:, None, None, None].to(x.dtype))
        # A difference of large numbers: bfloat16's 8 bits lose it, float32's 24 do not.
        return self.outer((hidden + self.scale) - self.scale)
