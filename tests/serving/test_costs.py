import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdiff.serving.costs import StepCost, best_step, power_of_two_from

MEASURED = {1: 0.010, 4: 0.016, 16: 0.060}


def test_cost_starts_with_the_measured_calls():
    cost = StepCost(MEASURED)
    assert cost(1) == 0.010
    assert cost(3) == cost(4) == 0.016
    assert cost(13) == 0.060  # one call for 16
    assert cost(20) == 5 * 0.016


def test_cost_takes_the_first_sample_as_it_is_and_other_sizes_in_proportion():
    cost = StepCost(MEASURED)
    cost.learn(4, 0.032)
    assert cost(4) == pytest.approx(0.032)
    assert cost(1) == pytest.approx(0.020)  # never seen: twice what was measured, like the rest
    cost.learn(16, 0.180)
    assert cost(16) == pytest.approx(0.180)
    assert cost(1) == pytest.approx(0.025)  # the median factor of 2 and 3
    assert cost.learned() == pytest.approx({4: 0.032, 16: 0.180})


@given(st.integers(1, 40), st.floats(1e-4, 10), st.integers(20, 60))
def test_one_outlier_moves_the_cost_by_a_fifth_at_most(evaluations, seconds, steps):
    cost = StepCost(MEASURED)
    for _ in range(steps):
        cost.learn(evaluations, seconds)
    cost.learn(evaluations, 1000 * seconds)
    assert seconds < cost(evaluations) <= 1.2 * seconds * (1 + 1e-9)


@pytest.mark.parametrize("factor", [0.2, 5.0])
def test_a_lasting_change_is_followed_within_sixty_steps(factor):
    cost = StepCost(MEASURED)
    for _ in range(100):
        cost.learn(4, 0.02)
    for _ in range(60):
        cost.learn(4, 0.02 * factor)
    assert cost(4) == pytest.approx(0.02 * factor, rel=0.2)


def test_cost_is_the_mean_of_what_varies():
    cost = StepCost(MEASURED)
    for i in range(400):
        cost.learn(8, 0.03 if i % 2 else 0.05)
        cost.learn(16, 0.3 if i % 10 == 5 else 0.1)
    assert cost(8) == pytest.approx(0.04, rel=0.03)
    assert cost(16) == pytest.approx(0.12, rel=0.06)


def test_buckets_are_powers_of_two():
    assert [power_of_two_from(n) for n in (1, 2, 3, 4, 5, 8, 9, 1000)] == [
        1,
        2,
        4,
        4,
        8,
        8,
        16,
        1024,
    ]


def test_best_step_is_the_smallest_that_is_nearly_the_fastest():
    assert best_step({1: 1.0, 4: 2.0, 16: 8.0, 64: 32.0}) == 4
    assert best_step({1: 1.0, 8: 1.1, 64: 2.0}) == 64
    assert best_step({8: 1.0, 16: 1.97}) == 8
    assert best_step({8: 1.0, 16: 1.75}) == 16


@given(st.dictionaries(st.sampled_from([1, 2, 4, 8]), st.floats(1e-5, 1e-2), min_size=1))
def test_best_step_bears_the_overhead_of_short_calls(measured):
    step = best_step(measured)
    fastest = max(batch / seconds for batch, seconds in measured.items())
    seconds = min(-(-step // batch) * each for batch, each in measured.items())
    assert step / (seconds + 1e-4) >= 0.97 * fastest * (1 - 1e-9)
    assert best_step({1: 2e-4}) == 17
