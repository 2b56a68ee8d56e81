"""What an average pool assumes of its operands, and what it says of itself."""

from dataclasses import replace

import pytest

from fastdiff.native.nodes import KINDS
from fastdiff.native.views import View

POOL = KINDS["AveragePool"](
    "pool", View.of("x", (7, 6, 5)), View.of("y", (4, 4, 5)), (3, 3), (2, 2), (1, 1), False
)


def test_windows_at_the_end_reach_beyond_the_padding_or_are_left_out():
    assert POOL.fits({})
    assert replace(POOL, y=View.of("y", (4, 3, 5))).fits({})


@pytest.mark.parametrize(
    "changed",
    [
        {"y": View.of("y", (4, 5, 5))},
        {"y": View.of("y", (4, 2, 5))},
        {"y": View.of("y", (4, 4, 4))},
        {"x": View.of("x", (7, 6, 1, 5))},
        {"x": View("x", 0, (7, 6, 5), (6, 1, 42))},
        {"kernel": (0, 3)},
        {"stride": (2, 0)},
        {"padding": (-1, 1)},
        {"padding": (2, 1)},
        {"divisor_override": 0},
    ],
    ids=str,
)
def test_operands_that_do_not_fit_are_told(changed):
    assert not replace(POOL, **changed).fits({})


def test_its_line_says_what_is_pooled():
    assert POOL.shape_text == "7x6x5 -> 4x4x5"
    assert POOL.parts() == ["3x3", "stride 2x2", "padding 1x1", "padding not counted"]
    alone = replace(POOL, stride=(3, 3), padding=(0, 0), divisor_override=2)
    assert alone.parts() == ["3x3", "divisor 2"]
