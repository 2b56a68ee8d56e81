"""What kernels take along, and that it changes nothing but the number of nodes."""

import pytest
import torch
from planned_networks import MODELS, error
from torch import nn
from torch.nn import functional

from fastdiff.native import make_plan, run_reference
from fastdiff.native.nodes import Attention, Conv, GroupNorm, LayerNorm, Map
from fastdiff.native.planning.building import assign_memory
from fastdiff.native.planning.fusion import fuse
from fastdiff.native.planning.maps import merge_maps


def test_residual_blocks_are_norms_and_convolutions(model):
    nodes = make_plan(model("ddpm").program, model("ddpm").network).nodes
    block = [n for n in nodes if n.name.startswith("down_blocks.0.resnets.0")]
    kinds = [type(node) for node in block]
    assert kinds == [Conv, GroupNorm, Conv, GroupNorm, Conv]  # the first: all time embeddings
    embeddings, norm1, conv1, norm2, conv2 = block
    assert norm1.activation == norm2.activation == "silu"
    assert conv1.shift.buffer == embeddings.y.buffer
    assert conv2.residual is not None


def test_adaptive_norms_and_gates_take_no_nodes_of_their_own(model):
    plan = make_plan(model("dit").program, model("dit").network)
    block = [node for node in plan.nodes if node.name.startswith("transformer_blocks.1.")]
    norms = [node for node in block if isinstance(node, LayerNorm)]
    assert len(norms) == 2
    assert all(norm.scale is not None and norm.shift is not None for norm in norms)
    gated = [node for node in block if isinstance(node, Conv) and node.scale is not None]
    assert [node.residual is not None for node in gated] == [True, True]
    assert not any(isinstance(node, Map) for node in block)
    assert sum(isinstance(node, Attention) for node in block) == 1


def test_downsampling_pads_and_upsampling_doubles_inside_the_convolution(model):
    nodes = make_plan(model("ddpm").program, model("ddpm").network).nodes
    (down,) = (n for n in nodes if "downsamplers" in n.name)
    assert (down.x.shape[:2], down.y.shape[:2], down.padding) == ((8, 8), (4, 4), (0, 0))
    (up,) = (n for n in nodes if "upsamplers" in n.name)
    assert up.upsample
    assert up.x.shape[:2] == (4, 4)


class Chain(nn.Module):
    """y + conv(y) has two readers of y; only the second convolution may take its sum along."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x, t):
        y = functional.silu(self.first(x)) * 0.5
        return (torch.exp(self.second(y) + y) - 1) * torch.sigmoid(t)[:, None, None, None]


def test_a_value_with_two_readers_stays(read):
    case = read(Chain)
    fuse(case.graph)
    first, second = (node for node in case.graph.nodes if isinstance(node, Conv))
    assert (first.activation, first.residual) == ("silu", None)
    assert second.residual is not None
    merge_maps(case.graph)
    maps = [node for node in case.graph.nodes if isinstance(node, Map) and node.program]
    operations = [[op for op, *_ in node.program if op != "constant"] for node in maps]
    assert ["exp", "subtract", "multiply"] in operations  # its sigmoid is not done for every pixel
    assert ["sigmoid"] in operations
    got = run_reference(assign_memory(case.graph), case.inputs, len(case.expected))
    assert error(got, case.expected) < 1e-6


@pytest.mark.parametrize("name", ["scale_shift", "text"])
def test_fusion_leaves_no_element_wise_node_that_a_kernel_could_take(model, name):
    plan = make_plan(model(name).program, model(name).network)
    assert name in MODELS
    alone = [node.program[-1][0] for node in plan.nodes if isinstance(node, Map) and node.program]
    expected = {
        "scale_shift": {"sin", "cos", "silu"},
        "text": {"sin", "cos", "multiply"},
    }
    assert set(alone) == expected[name]
