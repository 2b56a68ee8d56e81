"""Sampling from the middle: `Solver.table(..., start=k)` leaves out the first k steps."""

import numpy as np
import pytest
from solver_variants import variants
from trajectories import compare

from fastdiff.errors import InvalidArgument
from fastdiff.sampling import Schedule, get_solver, list_solvers

CASES = {v.label: v for v in variants() if v.solver != "ddim_inverse" and v.takes(13)}
PNDM = {label: v for label, v in CASES.items() if v.solver == "pndm"}
TWO_EVALUATIONS = ("heun", "kdpm2", "kdpm2_ancestral", "dpmpp_sde")


@pytest.mark.peer
@pytest.mark.parametrize("label", CASES)
def test_it_is_that_of_diffusers_with_a_begin_index(label):
    variant = CASES[label]
    kind, spacing = variant.prediction_types[0], variant.spacings[0]
    for start in (1, 8):
        found = compare(variant, kind, spacing, 13, start=start)
        assert found.table < 1e-10, start
        assert found.packed < 1e-5, start


@pytest.mark.parametrize("name", sorted({*list_solvers()} - {"ddim_inverse", "pndm"}))
def test_rows_after_the_warm_up_are_those_of_the_whole_table(name):
    """What history a row needs it has after as many steps as the history is long."""
    whole = get_solver(name).table(Schedule(), 17)
    part = get_solver(name).table(Schedule(), 17, start=6)
    first = 12 if name in TWO_EVALUATIONS else 6
    warm = first + whole.history + 1
    np.testing.assert_array_equal(part.t, whole.t[first:])
    np.testing.assert_array_equal(part.levels, whole.levels[first:])
    np.testing.assert_array_equal(part.update[warm - first :], whole.update[warm:])
    assert len(part) == len(whole) - first
    assert part.order[0] == 1


def test_times_and_sigmas_are_left_out_too():
    solver = get_solver("dpmpp_2m")
    by_times = solver.table(Schedule(), timesteps=[900, 500, 200, 20], start=2)
    assert by_times.t.tolist() == [200, 20]
    by_sigmas = solver.table(Schedule(), sigmas=[10.0, 3.0, 0.4], start=1)
    np.testing.assert_allclose(by_sigmas.sigma / by_sigmas.alpha, [3.0, 0.4], rtol=1e-14)


@pytest.mark.peer
@pytest.mark.parametrize("label", PNDM)
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_compat_cuts_pndm_wherever_diffusers_does(label, kind):
    """Before the doubled time, between its two places, inside a Runge-Kutta step, and after."""
    for steps, start in ((13, 2), (13, 3), (13, 11), (13, 12), (5, 1), (5, 4)):
        found = compare(PNDM[label], kind, "leading", steps, start=start)
        assert found.table < 1e-10, (steps, start)
        assert found.packed < 1e-5, (steps, start)


def test_pndm_warms_up_anew_on_the_times_that_are_left():
    """diffusers takes PLMS's doubled time for granted and steps from levels it is not at."""
    solver, schedule = get_solver("pndm", skip_prk_steps=True), Schedule()
    part = solver.table(schedule, 20, start=8)
    again = solver.table(schedule, timesteps=solver.table(schedule, 20).t[[0, *range(2, 21)]][8:])
    np.testing.assert_array_equal(part.update, again.update)
    assert part.t[:3].tolist() == [550, 500, 500]


@pytest.mark.parametrize("start", [5, -1, 1.0, True])
def test_a_start_that_leaves_nothing_is_refused(start):
    with pytest.raises(InvalidArgument, match=r"start must be a whole number from 0 to 4"):
        get_solver("ddim").table(Schedule(), 5, start=start)


def test_inversion_cannot_start_in_the_middle():
    with pytest.raises(InvalidArgument, match="starts from the data"):
        get_solver("ddim_inverse").table(Schedule(), 5, start=1)
