"""Networks and modules as the front of the native engine sees them."""

import pytest
import torch

from fastdiff.denoisers.network import read_graph
from fastdiff.exporting import Network


@pytest.fixture
def model():
    """Return the traced network of a name in `MODELS`."""
    from planned_networks import traced_model  # needs diffusers, as the modules that ask for it do

    return traced_model


@pytest.fixture
def read():
    """Trace and read a module on (3, 6, 4) images."""
    from planned_networks import traced

    def graph_of(module, shape=(3, 6, 4), **conditioning):
        torch.manual_seed(0)
        case = traced(Network(module().eval(), shape, conditioning))
        case.graph = read_graph(case.program, case.network)
        return case

    return graph_of
