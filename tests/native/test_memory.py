"""No two values that live at once share memory, and little is wasted."""

from hypothesis import given
from hypothesis import strategies as st
from planned_networks import error
from torch import nn

from fastdiff.native import make_plan, run_reference
from fastdiff.native.nodes import Conv, GroupNorm
from fastdiff.native.planning.memory import ALIGNMENT, Lifetime, assign, live_peak

LIVES = st.builds(
    lambda blocks, first, nodes: Lifetime(blocks * ALIGNMENT, first, first + nodes),
    st.integers(1, 20), st.integers(0, 15), st.integers(0, 8),
)  # fmt: skip


@given(st.lists(LIVES, max_size=16))
def test_values_that_live_at_once_lie_apart(lives):
    found = {str(index): life for index, life in enumerate(lives)}
    offsets, floats = assign(found)
    assert live_peak(found) <= floats <= sum(life.floats for life in lives)
    for a, one in found.items():
        assert 0 <= offsets[a] <= floats - one.floats
        for b, other in found.items():
            if a < b and one.first <= other.last and other.first <= one.last:
                assert (
                    offsets[a] + one.floats <= offsets[b] or offsets[b] + other.floats <= offsets[a]
                )


def test_values_in_turn_share_one_place():
    found = {str(i): Lifetime(32, i, i + 1) for i in range(0, 10, 2)}
    assert assign(found) == (dict.fromkeys(found, 0), 32)


def test_the_arena_is_hardly_larger_than_what_lives_at_once(model):
    for name in ("digits", "ddpm", "dit", "text"):
        plan = make_plan(model(name).program, model(name).network)
        assert plan.live_floats <= plan.arena_floats <= 1.1 * plan.live_floats


def test_norms_and_sums_write_over_what_dies(model):
    plan = make_plan(model("ddpm").program, model("ddpm").network)
    nodes = {node.name: node for node in plan.nodes}
    norm = nodes["down_blocks.0.resnets.0.norm2"]
    assert isinstance(norm, GroupNorm)
    assert norm.x == norm.y
    overwritten = [n for n in plan.nodes if isinstance(n, Conv) and n.residual == n.y]
    assert overwritten


class OntoItself(nn.Module):
    """1 x 1 convolutions of the values that they are added to."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x, t):
        x = self.first(x)
        x = x + self.second(x)
        return x + self.first(x)


def test_a_convolution_never_writes_over_what_it_convolves(read):
    case = read(OntoItself)
    plan = make_plan(case.program, case.network)
    assert all(node.y.buffer != node.x.buffer for node in plan.nodes if isinstance(node, Conv))
    assert error(run_reference(plan, case.inputs, len(case.expected)), case.expected) < 1e-6
