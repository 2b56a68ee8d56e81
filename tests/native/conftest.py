"""Networks and modules as the front of the native backend sees them."""

import pytest
import torch

from fastdiff.native import read_graph
from fastdiff.networks import Network


def _planned_networks():
    return pytest.importorskip("planned_networks", reason="needs diffusers")


@pytest.fixture
def model():
    """Return the traced network of a name in `MODELS`."""
    return _planned_networks().traced_model


@pytest.fixture
def read():
    """Trace and read a module on (3, 6, 4) images."""

    def graph_of(module, shape=(3, 6, 4), **conditioning):
        torch.manual_seed(0)
        case = _planned_networks().traced(Network(module().eval(), shape, conditioning))
        case.graph = read_graph(case.program, case.network)
        return case

    return graph_of
