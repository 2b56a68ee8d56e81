"""Plans on the kernels themselves, against torch."""

import numpy as np
import pytest
from planned_networks import LEVELS, MODELS, error, evaluate, traced
from torch import nn
from torch.nn import functional

from fastdiff import _native
from fastdiff.errors import ArtifactError
from fastdiff.native import Algorithm, Conv, bind, make_plan, pack
from fastdiff.native.nodes import Attention, Gather, GroupNorm
from fastdiff.networks import Network


def choices_of(plan, algorithm):
    return {
        node.name: Algorithm(algorithm)
        for node in plan.nodes
        if isinstance(node, Conv) and node.kernel == (3, 3) and node.stride == 1
    }


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", MODELS)
def test_the_kernels_compute_what_torch_computes(model, name, level):
    case = model(name)
    plan = make_plan(case.program, case.network)
    whole = evaluate(plan, case.inputs, len(case.expected), {}, level)
    assert error(whole, case.expected) < 1e-5
    alone = evaluate(plan, case.inputs, 1, {}, level)
    np.testing.assert_array_equal(alone[0], whole[0])


class Repeating(nn.Module):
    """Attention to values, and a norm with a scale, whose channels are one number."""

    def forward(self, x, t):
        values = x[..., :1].expand(x.shape)
        mixed = functional.scaled_dot_product_attention(x, x, values)
        scale = t[:, None].expand(-1, 4)[:, None, None]
        return functional.layer_norm(mixed + x, (4,)) * (1 + scale)


@pytest.mark.parametrize("level", LEVELS)
def test_channels_that_repeat_a_number_are_what_torch_makes_of_them(level):
    case = traced(Network(Repeating(), (3, 6, 4)))
    plan = make_plan(case.program, case.network)
    got = evaluate(plan, case.inputs, len(case.expected), {}, level)
    assert error(got, case.expected) < 1e-5


@pytest.mark.parametrize("algorithm", ["winograd2", "winograd4"])
def test_every_algorithm_has_its_own_packed_weights(model, algorithm):
    case = model("ddpm")
    plan = make_plan(case.program, case.network)
    choices = choices_of(plan, algorithm)
    got = evaluate(plan, case.inputs, len(case.expected), choices, LEVELS[-1])
    assert error(got, case.expected) < 3e-5
    (first, *_) = (node for node in plan.nodes if node.name in choices)
    assert f"{first.weights} {algorithm}" in pack(plan, choices)
    assert f"{first.weights} direct" not in pack(plan, choices)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ["digits", "dit", "text"])
def test_attention_in_tiles_is_near_and_has_the_same_bits_in_any_batch(model, name, level):
    case = model(name)
    plan = make_plan(case.program, case.network)
    names = [node.name for node in plan.nodes if isinstance(node, Attention)]
    choices = dict.fromkeys(names, Algorithm("tiles"))
    whole = evaluate(plan, case.inputs, len(case.expected), choices, level)
    assert 1e-5 < error(whole, case.expected) < 1e-2
    alone = evaluate(plan, case.inputs, 1, choices, level)
    np.testing.assert_array_equal(alone[0], whole[0])


def test_tables_in_bfloat16_are_half_as_large_and_near(model):
    case = model("dit")
    plan = make_plan(case.program, case.network)
    tables = {node.table for node in plan.nodes if isinstance(node, Gather)}
    choices = {n.name: Algorithm("bfloat16") for n in plan.nodes if isinstance(n, Gather)}
    packed = pack(plan, choices)
    assert tables
    assert not tables & packed.keys()
    assert all(packed[f"{table} bfloat16"].dtype == np.uint16 for table in tables)
    got = evaluate(plan, case.inputs, len(case.expected), choices, LEVELS[-1])
    assert 1e-6 < error(got, case.expected) < 3e-3


@pytest.mark.parametrize(
    ("kind", "algorithm"),
    [(Attention, "winograd2"), (Conv, "exact"), (GroupNorm, "tiles"), (Gather, "tiles")],
)
def test_an_algorithm_that_a_node_has_no_kernel_for_is_refused(model, kind, algorithm):
    plan = make_plan(model("digits").program, model("digits").network)
    (name, *_) = (node.name for node in plan.nodes if isinstance(node, kind))
    with pytest.raises(ArtifactError, match=f"{name}: no algorithm '{algorithm}'"):
        bind(plan, _native.NetworkPlan(), 1, {}, 0, {}, {name: Algorithm(algorithm)})


def test_weights_that_a_kernel_would_read_past_are_refused(model):
    plan = make_plan(model("dit").program, model("dit").network).without_weights()
    with pytest.raises(ArtifactError, match="got nothing"):
        bind(plan, _native.NetworkPlan(), 1, {}, 0, {}, {})
    short = {name: np.zeros(4, np.float32) for name in plan.shapes}
    with pytest.raises(ArtifactError, match="expected 16 of float32, got 4"):
        bind(plan, _native.NetworkPlan(), 1, {}, 0, short, {})
