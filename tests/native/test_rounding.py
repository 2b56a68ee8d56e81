"""Convolutions whose input the node before them rounds."""

import numpy as np
import pytest
import torch
from planned_networks import LEVELS, MODELS, evaluate
from torch import nn

from fastdiff.native import Algorithm, make_plan
from fastdiff.native.nodes import Attention, Conv, GroupNorm, LayerNorm
from fastdiff.native.planning.rounding import rounded_ahead, without_rounded
from fastdiff.native.running import binding


def tiles(plan, algorithm="tiles"):
    return {node.name: Algorithm(algorithm) for node in plan.convolutions}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("level", LEVELS)
def test_what_is_rounded_ahead_changes_no_bit(model, monkeypatch, level, name):
    case = model(name)
    plan = make_plan(case.program, case.network)
    choices = tiles(plan)
    names = rounded_ahead(plan, choices)
    before = {type(a) for a, b in zip(plan.nodes, plan.nodes[1:], strict=False) if b.name in names}
    assert before >= ({GroupNorm, Attention} if name == "digits" else set())
    assert names
    ahead = evaluate(plan, case.inputs, 3, choices, level)
    monkeypatch.setattr(binding, "rounded_ahead", lambda plan, choices: set())
    np.testing.assert_array_equal(ahead, evaluate(plan, case.inputs, 3, choices, level))


@pytest.mark.parametrize("name", MODELS)
def test_what_is_rounded_ahead_takes_no_memory(model, name):
    case = model(name)
    plan = make_plan(case.program, case.network)
    choices = tiles(plan)
    smaller = without_rounded(plan, choices)
    assert rounded_ahead(smaller, choices) == rounded_ahead(plan, choices)
    assert smaller.arena_floats <= plan.arena_floats
    assert smaller.live_floats <= plan.live_floats
    for rows in (1, 3):
        got, expected = (
            evaluate(p, case.inputs, rows, choices, LEVELS[-1]) for p in (smaller, plan)
        )
        np.testing.assert_array_equal(got, expected)
    assert without_rounded(plan, tiles(plan, "direct")) is plan


@pytest.mark.parametrize("name", MODELS)
def test_a_norm_stands_before_the_only_convolution_that_reads_it(model, name):
    nodes = make_plan(model(name).program, model(name).network).nodes
    norms = [i for i, node in enumerate(nodes) if isinstance(node, (GroupNorm, LayerNorm))]
    before = 0
    for i in norms:
        rest = nodes[i + 1 :]
        readers = [n for n in rest if any(v.buffer == nodes[i].y.buffer for v in n.reads())]
        if isinstance(readers[0], Conv):
            before += 1
            assert readers[0] is nodes[i + 1]
    assert before


class Joined(nn.Module):
    """A part of a concatenation is read by itself before the other part is there."""

    def __init__(self, again):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Conv2d(64, 3, 1)
        self.again = again

    def forward(self, x, t):
        a = self.first(x)
        b = self.second(a)
        return self.last(torch.cat([a, b], dim=1) if self.again else torch.cat([b, b], dim=1))


@pytest.mark.parametrize("again", [True, False])
def test_what_is_read_again_is_stored(read, again):
    case = read(lambda: Joined(again))
    plan = make_plan(case.program, case.network)
    names = rounded_ahead(plan, tiles(plan))
    assert ("second" in names) == (not again)
    got = evaluate(plan, case.inputs, 2, tiles(plan), LEVELS[-1])
    assert np.abs(got - case.expected[:2]).max() < 2e-2 * np.abs(case.expected).max()


def test_a_doubled_image_is_rounded_before_it_is_doubled(read, monkeypatch):
    class Doubles(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Conv2d(3, 32, 1), nn.Conv2d(32, 3, 3, padding=1)

        def forward(self, x, t):
            return self.last(nn.functional.interpolate(self.first(x), scale_factor=2.0))

    case = read(Doubles, (3, 16, 20))  # with fewer pixels it is doubled as it is rounded
    plan = make_plan(case.program, case.network)
    assert without_rounded(plan, tiles(plan)).live_floats < plan.live_floats
    assert rounded_ahead(plan, tiles(plan)) == {"last"}
    assert rounded_ahead(plan, {"last": Algorithm("direct")}) == set()
    for level in LEVELS:
        got = evaluate(plan, case.inputs, 3, tiles(plan), level)
        assert np.abs(got - case.expected[:3]).max() < 2e-2 * np.abs(case.expected).max()
        with monkeypatch.context() as patch:
            patch.setattr(binding, "rounded_ahead", lambda plan, choices: set())
            np.testing.assert_array_equal(got, evaluate(plan, case.inputs, 3, tiles(plan), level))


def test_tiles_are_whole_and_their_pixels_those_of_the_image(read):
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.narrow = nn.Conv2d(3, 40, 1), nn.Conv2d(40, 64, 1)
            self.smaller, self.wide = nn.Conv2d(64, 64, 3, 2, 1), nn.Conv2d(64, 3, 1)

        def forward(self, x, t):
            y = self.wide(self.smaller(self.narrow(self.first(x))))
            return nn.functional.interpolate(y, scale_factor=2.0)

    plan = make_plan((case := read(Network)).program, case.network)
    assert rounded_ahead(plan, tiles(plan)) == {"wide"}
    assert rounded_ahead(plan, tiles(plan, "int8")) == {"wide"}
    assert rounded_ahead(plan, tiles(plan, "direct")) == set()
