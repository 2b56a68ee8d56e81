"""Concatenations and joined layers cost no copies; maps fit what the kernel takes."""

import numpy as np
import torch
from planned_networks import error
from torch import nn

from fastdiff.native import make_plan, run_reference
from fastdiff.native.nodes import MAP_AXES, GroupNorm, Map


def copies(plan):
    return [node.name for node in plan.nodes if isinstance(node, Map) and not node.program]


def test_skips_are_written_beside_what_they_are_joined_with(model):
    plan = make_plan(model("ddpm").program, model("ddpm").network)
    assert copies(plan) == ["conv_in.channels_last", "output"]
    (conv,) = (n for n in plan.nodes if n.name == "down_blocks.0.resnets.0.conv2")
    readers = [n for n in plan.nodes if isinstance(n, GroupNorm) and n.x.buffer == conv.y.buffer]
    assert {n.name.split(".")[0] for n in readers} == {"up_blocks"}
    (joined,) = (n.x for n in readers)
    assert conv.y.strides[1] == joined.shape[1] > conv.y.shape[2]


def test_query_key_and_value_are_one_layer(model):
    plan = make_plan(model("dit").program, model("dit").network)
    joined = [node for node in plan.nodes if "{to_q,to_k,to_v}" in node.name]
    assert [node.y.shape[-1] for node in joined] == [48, 48]
    weights = model("dit").network.module.state_dict()
    for index, node in enumerate(joined):
        parts = [weights[f"model.transformer_blocks.{index}.attn1.{n}.weight"].numpy()
                 for n in ("to_q", "to_k", "to_v")]  # fmt: skip
        np.testing.assert_array_equal(plan.weights[node.weights][..., 0, 0], np.concatenate(parts))


def test_keys_of_a_text_join_within_a_layer_alone(model):
    plan = make_plan(model("text").program, model("text").network)
    joined = [node.name for node in plan.nodes if "attn2" in node.name and "{" in node.name]
    assert all(name.endswith("attn2.{to_k,to_v}") for name in joined)
    assert len(joined) == len(set(joined)) == 4


class Twice(nn.Module):
    """One value in two concatenations, once as it is and once transposed."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.join = nn.Conv2d(6, 3, 1)

    def forward(self, x, t):
        y = self.conv(x)
        first = self.join(torch.cat([y, x], 1))
        second = self.join(torch.cat([x, y], 1))
        return first + second + self.join(torch.cat([y, y], 1))


def test_a_value_in_two_places_is_copied_to_the_second(read):
    case = read(Twice)
    plan = make_plan(case.program, case.network)
    got = run_reference(plan, case.inputs, len(case.expected))
    assert error(got, case.expected) < 1e-6
    assert len([name for name in copies(plan) if "cat" in name]) == 5  # of six parts


class Shuffle(nn.Module):
    """Six axes that do not merge."""

    def forward(self, x, t):
        parts = x.reshape(-1, 2, 3, 2, 5, 2, 2)
        return (parts * 2).permute(0, 5, 1, 6, 3, 2, 4).reshape(-1, 6, 8, 5)


def test_maps_of_many_axes_are_split(read):
    case = read(Shuffle, shape=(6, 8, 5))
    plan = make_plan(case.program, case.network)
    maps = [node for node in plan.nodes if isinstance(node, Map)]
    assert max(len(node.y.shape) for node in maps) == MAP_AXES
    got = run_reference(plan, case.inputs, len(case.expected))
    np.testing.assert_array_equal(got, case.expected)
