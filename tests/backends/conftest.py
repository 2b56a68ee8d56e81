"""A small network that every backend can run, and how a denoiser is run in tests."""

import pytest
import torch
from torch import nn
from torch.utils._pytree import tree_map

from fastdiff.backends import get_backend
from fastdiff.errors import Unavailable
from fastdiff.exporting import export_onnx
from fastdiff.networks import Conditioning, Network


class Conv(nn.Module):
    """Small, exportable, and sensitive to every input."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.label = nn.Embedding(5, 3)
        self.text = nn.Linear(7, 3)

    def forward(self, x, t, class_labels, text):
        shift = self.label(class_labels) + self.text(text) + torch.sin(t / 100)[:, None].to(x.dtype)
        return self.conv(x) * shift[:, :, None, None]


@pytest.fixture(scope="session")
def onnx_file(tmp_path_factory):
    return export_onnx(conv_network(), tmp_path_factory.mktemp("onnx") / "conv.onnx")


@pytest.fixture
def network(onnx_file):
    """(3, 6, 5) samples, conditioned on an int64 label and a float32 vector, exported to a file."""
    return conv_network(onnx_file)


def conv_network(onnx_file=None):
    inputs = {
        "class_labels": Conditioning(num_classes=4, null=4),
        "text": Conditioning(shape=(7,), dtype=torch.float32, null=0.0),
    }
    return Network(Conv(), (3, 6, 5), inputs, "conv", onnx_file)


@pytest.fixture
def usable():
    """Return the backend of a name, or skip where an optional one cannot run."""

    def get(name):
        if name in {"eager", "native", "onnxruntime"}:
            return get_backend(name)
        try:
            return get_backend(name)
        except Unavailable as error:
            pytest.skip(str(error))

    return get


@pytest.fixture
def place():
    """Return tensors, in whatever holds them, where a denoiser takes them."""
    return lambda denoiser, *held: tree_map(lambda value: value.to(denoiser.device), held)


@pytest.fixture
def run(place):
    """Evaluate a denoiser once into poisoned memory."""

    def evaluate(denoiser, x, t, conditioning):
        out = torch.full((len(x), denoiser.output_channels, *x.shape[2:]), torch.nan)
        x, out = x.to(denoiser.input_dtype), out.to(denoiser.output_dtype)
        x, t, conditioning, out = place(denoiser, x, t, conditioning, out)
        denoiser.bind(x, t, conditioning, out)()
        return out.cpu().float()

    return evaluate
