"""What random programs are compared by tells mistakes from roundings."""

import pytest
import torch
from aten_programs import ATEN, AtenProgram
from compared_programs import ROWS, check_program
from planned_networks import LEVELS

from fastdiff.native import make_plan

# The call that torch makes, and the one that is planned in its place.
MISTAKES = {
    "lost_bound": ((ATEN.clamp.default, -1.0, 1.0), (ATEN.clamp.default, -1.0)),
    "other_bound": ((ATEN.clamp.default, -1.0, 1.0), (ATEN.clamp.default, -1.0, 1.01)),
    "sign": ((ATEN.rsub.Scalar, 1e-3), (ATEN.sub.Tensor, 1e-3)),
    "ignored_argument": (
        (ATEN.avg_pool2d.default, [1, 1], [], 0, False, True, 2),
        (ATEN.avg_pool2d.default, [1, 1]),
    ),
    "other_function": ((ATEN.gelu.default,), (ATEN.silu.default,)),
}


def planned(program, call):
    """Put calls that let roundings grow behind one on x, and plan them."""
    program.clear()
    target, *arguments = call
    node = program.call(target, program.nodes["x"], *arguments)
    weights, row = program.nodes["square"], program.nodes["row"]
    for _ in range(3):
        node = program.call(
            ATEN.silu.default, program.call(ATEN.linear.default, node, weights, row)
        )
        node = program.call(ATEN.scaled_dot_product_attention.default, node, node, node)
        node = program.call(ATEN.layer_norm.default, node, [4], row, row)
    program.finish(node)
    return make_plan(program.program, program.network)


@pytest.fixture(scope="module")
def program():
    return AtenProgram()


@pytest.mark.parametrize("level", [None, *LEVELS])
@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_no_rounding(program, name, level):
    right, wrong = MISTAKES[name]
    numbers = torch.Generator().manual_seed(0)
    inputs = {name: 2 * torch.randn(ROWS, 3, 6, 4, generator=numbers) for name in "xy"}
    inputs |= {"t": torch.ones(ROWS), "labels": torch.zeros(ROWS, dtype=torch.int64)}
    mistaken, plan = planned(program, wrong), planned(program, right)
    check_program(program, inputs, plan, level)
    with pytest.raises(AssertionError, match="expected"):
        check_program(program, inputs, mistaken, level)
