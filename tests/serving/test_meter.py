"""Rates under a virtual clock."""

from fastdiff.serving.meter import Meter


def test_rates_are_of_the_time_in_which_steps_ran():
    meter = Meter()
    for number in range(50):  # 50 steps of 4 images in a tenth of a second
        meter.add(10.0 + number * 0.002, rows=4, seconds=0.002)
    steps, row_steps = meter.rates(11.0)
    assert (round(steps), round(row_steps)) == (500, 2000)


def test_what_is_long_ago_is_forgotten():
    meter = Meter()
    meter.add(10.0, rows=4, seconds=0.5)
    assert meter.rates(14.9) == (2.0, 8.0)
    meter.add(14.9, rows=1, seconds=0.25)
    assert meter.rates(15.1) == (4.0, 4.0)
    assert meter.rates(20.0) == (0.0, 0.0)


def test_a_step_longer_than_the_window_is_remembered_while_the_next_one_runs():
    meter = Meter()
    meter.add(30.0, rows=2, seconds=20.0)
    assert meter.rates(49.0) == (1 / 20, 2 / 20)
