"""What a caller's choices mean."""

import pytest

from fastdiff.compiling import CompileOptions


@pytest.mark.parametrize(
    ("tune", "evaluation_seconds", "budget"),
    [
        ("fast", 0.0, 4),
        ("fast", 0.5, 15),  # a slow network gets 30 evaluations,
        ("fast", 9.0, 60),  # up to a minute
        ("full", 9.0, 60),
        (7, 9.0, 7),
    ],
)
def test_budget_grows_with_slow_networks_unless_it_is_said(tune, evaluation_seconds, budget):
    assert CompileOptions(tune=tune).budget_seconds(evaluation_seconds) == pytest.approx(budget)
