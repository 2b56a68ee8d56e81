"""Attention in the eager backend of a GPU; the operator's CPU kernel stands in for it here."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastdiff.backends.eager import with_attention
from fastdiff.networks import Network
from fastdiff.networks.precision import AtPrecision


class Attends(nn.Module):
    """Self-attention over pixels, two heads of 8."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.project = nn.Linear(4, 48)
        self.out = nn.Linear(16, 4)

    def forward(self, x, t):
        tokens = x.flatten(2).transpose(1, 2) + t[:, None, None].to(x.dtype) / 1000
        q, k, v = (
            a.unflatten(-1, (2, 8)).transpose(1, 2) for a in self.project(tokens).chunk(3, -1)
        )
        y = nn.functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).flatten(2)).transpose(1, 2).unflatten(-1, x.shape[2:])


class Counts(TorchDispatchMode):
    """Counts calls of fastdiff's operator."""

    calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func is torch.ops.fastdiff.attention.default
        return func(*args, **(kwargs or {}))


def test_attention_is_the_operator_and_the_output_the_same():
    network = Network(Attends(), (4, 5, 3))
    module = AtPrecision(network.module, torch.float32)
    x, t, conditioning = network.example(3)
    with torch.inference_mode():
        expected = module(x, t, conditioning)
        replaced = with_attention(module, network)
        with Counts() as counted:
            got = replaced(x, t, conditioning)
    assert counted.calls == 1
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
