"""The proof of a table: every check is seen to fire, and no waiver can hide a fault."""

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastdiff.errors import TableError
from fastdiff.sampling import Schedule, StepTable, get_solver, list_solvers

SCHEDULE = Schedule()
PIECES = {f.name for f in fields(StepTable)}


def remade(table, **changes):
    """The same table with some fields changed, proved again."""
    return StepTable(**{name: changes.get(name, getattr(table, name)) for name in PIECES})


def nudged(table, name, index, by):
    values = np.array(getattr(table, name), float)
    values[index] += by
    return {name: values}


INEXACT = ("lcm", "reverse_sde", "probability_flow")
"""Solvers that waive the checks of mean and variance."""


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("solver", sorted({*list_solvers()} - {*INEXACT}))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_a_wrong_coefficient_never_passes(solver, prediction_type, data):
    schedule = Schedule(prediction_type=prediction_type, clip_sample=False)
    if solver == "ddim_inverse" and prediction_type == "sample":
        schedule = Schedule(**{**schedule.to_config(), "set_alpha_to_one": False})
    table = get_solver(solver).table(schedule, 7)
    row = data.draw(st.integers(0, len(table) - 1))
    name = data.draw(st.sampled_from(["update", "p", "q", "c_in", "alpha", "sigma", "alpha_to"]))
    index = (row, 0, data.draw(st.integers(0, table.history + 3))) if name == "update" else row
    by = data.draw(st.sampled_from([1e-3, -1e-3]))
    unread = name == "update" and row == 0 and 1 <= index[2] <= table.history
    remade(table)
    with pytest.raises(TableError, match="reads history" if unread else "fails the check"):
        remade(table, **nudged(table, name, index, by))


@pytest.mark.parametrize(
    ("check", "name", "index", "value"),
    [
        ("finite", "update", (2, 0, 0), np.nan),
        ("finite", "clip", 1, 0.0),
        ("finite", "t", 0, np.inf),
        ("denoised", "p", 3, 1.01),
        ("denoised", "q", 3, -0.1),
        ("input", "c_in", 4, 0.999),
        ("levels", "alpha_to", 1, 0.3),
        ("mean", "update", (2, 0, 2), 0.5),
        ("variance", "update", (2, 0, 4), 1e-3),
        ("history", "update", (0, 0, 1), 1e-3),
    ],
)
def test_each_check_fires_and_names_its_row(check, name, index, value):
    table = get_solver("dpmpp_2m").table(SCHEDULE, 6)
    values = np.array(getattr(table, name))
    values[index] = value
    row = index[0] if isinstance(index, tuple) else index
    with pytest.raises(TableError, match=rf"dpmpp_2m: row {row} fails the check '{check}'"):
        remade(table, **{name: values})


@pytest.mark.parametrize("solver_type", ["midpoint", "heun"])
@pytest.mark.parametrize("solver", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_only_the_moments_see_a_wrong_multistep_weight(solver, solver_type):
    table = get_solver(solver, solver_type=solver_type).table(SCHEDULE, 6)
    update = np.array(table.update)
    update[3, 0, [1, 2]] += [1e-3, -1e-3]  # the mean of constant data stays
    with pytest.raises(TableError, match="row 3 fails the check 'moments': moment 1"):
        remade(table, update=update)
    remade(table, update=update, order=np.ones(6))
    assert table.order.tolist() == [1, 2, 2, 2, 2, 1]


def test_midpoint_and_exact_weights_are_told_apart():
    for ours, other in (("midpoint", "exact"), ("heun", "midpoint")):
        table = get_solver("dpmpp_2m", solver_type=ours).table(SCHEDULE, 6)
        with pytest.raises(TableError, match="moment 1"):
            remade(table, moment_rule=other)


def test_half_weight_of_released_third_order_code_is_caught():
    orders = get_solver("dpmpp_3m").table(SCHEDULE, 20).order
    assert orders.tolist() == [1, 2, *[3] * 17, 1]
    theirs = get_solver("dpmpp_3m").table(SCHEDULE, 20, compat="diffusers")
    with pytest.raises(TableError, match="row 2 fails the check 'moments': moment 2"):
        remade(theirs, order=orders)


def test_infinite_log_snr_cannot_claim_second_order():
    schedule = Schedule(rescale_betas_zero_snr=True, prediction_type="v_prediction")
    table = get_solver("dpmpp_2m").table(schedule, timesteps=[999, 700, 400, 100])
    assert table.order.tolist() == [1, 1, 2, 1]
    with pytest.raises(TableError, match="finite log-SNR"):
        remade(table, order=[1, 1, 2, 2])


def test_wrong_weights_of_other_histories_are_caught():
    """Each change keeps the mean and the variance of constant data."""
    heun = get_solver("heun").table(SCHEDULE, 6)
    update = np.array(heun.update)
    step = update[0, 0, 3]  # H1 = x + step / 2 m, then x' = H1 + step / 2 m
    update[0, 1, 3], update[1, 0, 3] = 0.4 * step, 0.6 * step
    with pytest.raises(TableError, match="row 1 fails the check 'moments': moment 1"):
        remade(heun, update=update)
    deis = get_solver("deis").table(SCHEDULE, 20)
    update = np.array(deis.update)
    update[5, 0] += 1e-3 * update[5, 1]  # the row's own epsilon for
    update[5, 0, 1] -= 1e-3  # the one before
    with pytest.raises(TableError, match="row 5 fails the check 'moments': moment 1"):
        remade(deis, update=update)
    unipc = get_solver("unipc", solver_order=3).table(SCHEDULE, 20)
    update = np.array(unipc.update)
    update[5, 0, 1:4] += [1e-3, -2e-3, 1e-3]
    with pytest.raises(TableError, match="row 5 fails the check 'moments'"):
        remade(unipc, update=update)
    unipc = get_solver("unipc").table(SCHEDULE, 50)
    update = np.array(unipc.update)
    update[5, 0, 1:3] += [0.05, -0.05]
    with pytest.raises(TableError, match="row 5 fails the check 'moments': moment 1"):
        remade(unipc, update=update)


def test_waivers_are_needed_named_and_true():
    large = get_solver("ddpm", variance_type="fixed_large").table(SCHEDULE, 5)
    assert set(large.waived) == {"variance"}
    with pytest.raises(TableError, match="row 0 fails the check 'variance'"):
        remade(large, waived={})
    small = get_solver("ddpm").table(SCHEDULE, 5)
    with pytest.raises(TableError, match=r"'variance' is waived \(just in case\) but holds"):
        remade(small, waived={"variance": "just in case"})
    with pytest.raises(TableError, match="'denoised' cannot be waived"):
        remade(small, waived={"denoised": "no"})
    # Near pure noise beta and beta~ are the same number, and the waiver would be idle.
    high = get_solver("ddpm", variance_type="fixed_large")
    assert not high.table(Schedule(num_train_timesteps=4000), timesteps=[3999, 3998, 3997]).waived
    # A waived check does not stop the others.
    with pytest.raises(TableError, match="row 2 fails the check 'mean'"):
        remade(large, **nudged(large, "update", (2, 0, 1), 1e-3))


def test_a_table_cannot_be_changed_after_its_proof():
    table = get_solver("ddim").table(SCHEDULE, 5)
    with pytest.raises(ValueError, match="read-only"):
        table.update[0, 0, 0] = 1.0
    with pytest.raises(AttributeError):
        table.name = "other"
    with pytest.raises(TypeError):
        table.waived["mean"] = "because"


def test_arrays_that_do_not_fit_together_are_refused():
    table = get_solver("ddim").table(SCHEDULE, 5)
    with pytest.raises(TableError, match=r"p must be \(5,\)"):
        remade(table, p=table.p[:4])
    with pytest.raises(TableError, match="update must be"):
        remade(table, update=table.update[:4])
    with pytest.raises(TableError, match="moment_rule"):
        remade(table, moment_rule="trapezoid")
    with pytest.raises(TableError, match="moment_basis"):
        remade(table, moment_basis="score")
