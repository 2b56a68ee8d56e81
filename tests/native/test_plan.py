"""A plan survives JSON, refuses what would leave its memory, and tells what it does."""

import copy
import json

import pytest

from fastdiff.errors import ArtifactError
from fastdiff.native import Plan, make_plan


@pytest.fixture
def plan(model):
    return make_plan(model("dit").program, model("dit").network)


def test_a_plan_comes_back_from_json_as_it_was(plan):
    again = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    assert again == plan
    assert again.without_weights() == plan


def change(path, value):
    def apply(data):
        for key in path[:-1]:
            data = data[key]
        data[path[-1]] = value

    return apply


@pytest.mark.parametrize(
    ("tamper", "reason"),
    [
        (change(["format"], 3), "format 2"),
        (change(["nodes", 1, "y", "offset"], 1 << 20), "leaves its"),
        (change(["nodes", 1, "y", "offset"], -1), "is no view"),
        (change(["nodes", 1, "y", "strides"], [64, 1, 1]), "do not fit"),
        (change(["nodes", 1, "y", "strides"], [64, 1, 0]), "do not fit"),
        (change(["nodes", 1, "kernel"], [9, 9]), "do not fit"),
        (change(["nodes", 2, "program", 1, 1], 7), "do not fit"),
        (change(["nodes", 2, "inputs", 0, "buffer"], "class_labels"), "labels are for"),
        (change(["nodes", 1, "x", "strides"], [1.5, 1, 1]), "is no view"),
        (change(["nodes", 1, "weights"], "others"), "no weights 'others'"),
        (change(["nodes", 1, "x", "buffer"], "nowhere"), "no buffer 'nowhere'"),
        (change(["arena_floats"], 16), "leaves the arena"),
        (change(["nodes", 0, "kind"], "Exec"), "expected a plan"),
        (change(["nodes"], 3), "expected a plan"),
        (change(["nodes", 1, "color"], "red"), "expected a plan"),
    ],
)
def test_a_plan_that_was_changed_is_refused(plan, tamper, reason):
    data = copy.deepcopy(json.loads(json.dumps(plan.to_json())))
    tamper(data)
    with pytest.raises(ArtifactError, match=reason):
        Plan.from_json(data)


def test_a_listing_has_a_line_for_each_node_and_room_for_times(plan):
    lines = plan.describe().splitlines()
    assert len(lines) == 1 + len(plan.nodes)
    (attention,) = (line for line in lines if "transformer_blocks.0.attn1.attention" in line)
    assert attention.split() == [
        "Attention", "transformer_blocks.0.attn1.attention", "2x16x8", "on", "16", "0.02",
    ]  # fmt: skip
    (mlp,) = (line for line in lines if "transformer_blocks.1.ff.net.2" in line)
    assert mlp.split()[2:] == ["1x16x64", "->", "1x16x16", "scale,", "residual", "0.03"]
    ahead = plan.describe(ahead={"transformer_blocks.1.ff.net.2"}).splitlines()
    changed = [line for line in ahead if "rounded ahead" in line]
    assert [line.split()[1] for line in changed] == ["transformer_blocks.1.ff.net.2"]
    timed = plan.describe({node.name: 0.0125 for node in plan.nodes}).splitlines()
    assert timed[0].endswith("ms")
    assert all(line.endswith("12.500") for line in timed[1:])
