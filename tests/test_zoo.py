"""Networks in the forms in which published ones are written, by every backend."""

import pytest
import torch
from zoo import ZOO

from fastdiff import Conditioning
from fastdiff.backends import BACKENDS, get_backend
from fastdiff.exporting import export_onnx
from fastdiff.native import plan_network
from fastdiff.networks import Network


def network_of(name, onnx=None):
    torch.manual_seed(0)
    kind = ZOO[name]
    inputs = {
        key: Conditioning(num_classes=value)
        if isinstance(value, int)
        else Conditioning(shape=value, dtype=torch.float32)
        for key, value in kind.inputs.items()
    }
    return Network(kind().eval(), kind.shape, inputs, name, onnx).probed()


def evaluated(denoiser, x, t, conditioning):
    out = torch.full((len(x), denoiser.output_channels, *x.shape[2:]), torch.nan)
    denoiser.bind(x, t, conditioning, out)()
    return out


@pytest.mark.parametrize("backend", ["eager", "native", "onnxruntime"])
@pytest.mark.parametrize("name", ZOO)
def test_a_network_answers_what_its_module_does(name, backend, tmp_path):
    network = network_of(name)
    if BACKENDS[backend].sources[0] == "onnx":
        network = network_of(name, export_onnx(network, tmp_path / "network.onnx"))
    x, t, conditioning = network.example(3, seed=1)
    with torch.no_grad():
        expected = network.module(x, t, **conditioning)
    got = evaluated(get_backend(backend).build(network, "float32"), x, t, conditioning)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ZOO)
def test_its_own_file_is_planned_too(name, tmp_path):
    network = network_of(name)
    path = export_onnx(network, tmp_path / "network.onnx")
    plan_network(Network(None, network.sample_shape, network.conditioning, name, path))
