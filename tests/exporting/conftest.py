"""A network that exports quickly, once for all tests."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from fastdiff.exporting import export_onnx
from fastdiff.networks import Conditioning, Network

LABELS = Conditioning(num_classes=4, null=4)
STYLE = Conditioning(shape=(2,), dtype=torch.float32, null=torch.tensor([0.25, -1.0]))


class Small(nn.Module):
    """Nonlinear, sensitive to every input, on (2, 3, 5) samples: 30 elements, no multiple of 4."""

    def __init__(self, channels_out):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.mix = nn.Parameter(torch.randn(30, 30, generator=generator) / 6)
        self.labels = nn.Parameter(torch.randn(5, 30, generator=generator))
        self.style = nn.Parameter(torch.randn(2, 30, generator=generator))
        self.channels_out = channels_out

    def forward(self, x, t, class_labels, style):
        shift = self.labels[class_labels] + style @ self.style
        hidden = torch.tanh(x.flatten(1) @ self.mix + shift * torch.cos(0.003 * t)[:, None])
        out = hidden.view(-1, 2, 3, 5)
        return out if self.channels_out == 2 else torch.cat([out, torch.sin(3 * out)], 1)


def small_network(channels_out=2):
    inputs = {"class_labels": LABELS, "style": STYLE}
    return Network(Small(channels_out), (2, 3, 5), inputs, "small")


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """The small network with its file, by number of output channels."""
    folder = tmp_path_factory.mktemp("exported")
    networks = {}
    for channels in (2, 4):
        network = small_network(channels)
        networks[channels] = replace(
            network, onnx=export_onnx(network, folder / f"{channels}.onnx")
        )
    return networks
