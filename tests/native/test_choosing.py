"""What is chosen for each node, with times that are made up."""

import pytest

from fastdiff.native import Algorithm, choose, make_plan
from fastdiff.native.nodes import Attention, Conv, Gather
from fastdiff.native.running import choosing


@pytest.fixture
def plan(model, monkeypatch):
    """A plan with attention, none of whose nodes is too small to be measured."""
    monkeypatch.setattr(choosing, "_SMALL_FLOPS", 0)
    return make_plan(model("text").program, model("text").network)


@pytest.fixture
def times(monkeypatch):
    """Seconds by algorithm; other algorithms take 1."""
    seconds = {}
    monkeypatch.setattr(
        choosing._Bench,
        "seconds",
        lambda _, shape, choices, batch: [seconds.get(choice.algorithm, 1) for choice in choices],
    )
    return seconds


def chosen(plan, precision, kind):
    choices = choose(plan, "portable", 1, precision)
    names = [node.name for node in plan.nodes if isinstance(node, kind)]
    return {choices[name].algorithm for name in names if name in choices}


def test_attention_takes_tiles_in_bfloat16_where_they_are_faster(plan, times):
    times["tiles"] = 0.9
    assert chosen(plan, "bfloat16", Attention) == {"tiles"}
    times["tiles"] = 1.1
    assert chosen(plan, "bfloat16", Attention) == {"direct"}


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_attention_stays_in_float32_in_other_precisions(plan, times, precision):
    times |= {"tiles": 0.1, "int8": 0.1}
    assert not chosen(plan, precision, Attention)


def test_tables_of_labels_are_in_bfloat16_with_the_rest(model, times):
    plan = make_plan(model("dit").program, model("dit").network)
    assert chosen(plan, "bfloat16", Gather) == {"bfloat16"}
    assert not chosen(plan, "float32", Gather)


def test_the_last_convolution_is_never_in_integers(plan, times):
    times["int8"] = 0.1
    choices = choose(plan, "portable", 1, "int8")
    *inner, last = (node for node in plan.nodes if isinstance(node, Conv))
    assert any(choices[node.name].algorithm == "int8" for node in inner)
    assert choices[last.name].algorithm != "int8"


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_what_is_measured_can_run(plan, monkeypatch, precision):
    monkeypatch.setattr(choosing, "_COLD_FLOATS", 1)
    choices = choose(plan, "", 1, precision)
    assert all(isinstance(choice, Algorithm) for choice in choices.values())
    assert {node.name for node in plan.convolutions} <= set(choices)
