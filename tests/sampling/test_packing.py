"""Slots and records: every known solver fits the kernel's record, without any new kernel code."""

import numpy as np
import pytest
from packed_loop import run_packed, widened

from fastdiff.errors import TableError
from fastdiff.records import TABLE_ROW
from fastdiff.sampling import Schedule, get_solver, list_solvers, run_table
from fastdiff.sampling.packing import assign_slots

SCHEDULE = Schedule(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)


SLOTS = {
    **dict.fromkeys(("heun", "kdpm2", "kdpm2_ancestral", "dpmpp_sde", "deis"), 1),
    **dict.fromkeys(("dpmpp_2m", "dpmpp_2m_sde", "dpmpp_single"), 1),
    **dict.fromkeys(("dpmpp_3m", "dpmpp_3m_sde", "unipc"), 2),
    "pndm": 4,
}
CASES = {name: (get_solver(name), SLOTS.get(name, 0)) for name in list_solvers()}
CASES["deis 3"] = (get_solver("deis", solver_order=3), 2)
CASES["dpmpp_single 3"] = (get_solver("dpmpp_single", solver_order=3), 2)
CASES["unipc 3"] = (get_solver("unipc", solver_order=3), 3)
CASES["pndm plms"] = (get_solver("pndm", skip_prk_steps=True), 3)


def network(x_in, t):
    """Smooth, nonlinear, and different at every time."""
    return np.tanh(1.3 * x_in[..., ::-1] + np.cos(0.003 * float(t))) + 0.1 * np.sin(x_in)


@pytest.mark.parametrize("name", CASES)
def test_packed_rows_compute_what_the_table_says(name):
    solver, slots = CASES[name]
    table = solver.table(SCHEDULE, 16)
    rng = np.random.default_rng(1)
    x = table.init_noise_sigma * rng.standard_normal((3, 63))
    z = rng.standard_normal((len(table), 3, 63))
    want = run_table(table, network, x, z)
    wide = run_packed(widened(table), lambda u, t, _: network(u, t), x, z, dtype=np.float64)
    scale = np.abs(want).max(axis=(1, 2), keepdims=True)
    assert np.max(np.abs(wide - want) / scale) < 1e-12
    packed = table.pack()
    narrow = run_packed(packed, lambda u, t, _: network(np.float64(u), t), x, z)
    assert np.max(np.abs(narrow - want) / scale) < 1e-5
    assert packed.history_slots == slots


def test_record_has_the_layout_of_the_contract():
    offsets = {name: TABLE_ROW.fields[name][1] for name in TABLE_ROW.names}
    assert TABLE_ROW.itemsize == 96
    assert offsets == {
        "x": 0, "h": 32, "p": 64, "q": 68, "clip": 72, "c_in_next": 76, "t": 80, "w": 84,
        "dst": 88, "pad": 92,
    }  # fmt: skip


def test_pack_says_what_the_kernels_must_prepare():
    euler = get_solver("euler").table(SCHEDULE, 3).pack()
    assert not euler.uses_noise
    assert not euler.needs_variance
    ratio = np.sqrt(1 / SCHEDULE.alphas_cumprod - 1)
    assert euler.init_noise_sigma == pytest.approx(np.hypot(1, ratio[666]), rel=1e-12)
    assert euler.first_c_in == pytest.approx(1 / np.hypot(1, ratio[666]), rel=1e-12)
    np.testing.assert_allclose(euler.rows["c_in_next"][:2], 1 / np.hypot(1, ratio[[333, 0]]), 1e-6)
    learned = get_solver("ddpm", variance_type="learned_range").table(SCHEDULE, 3).pack()
    assert learned.uses_noise
    assert learned.needs_variance
    with pytest.raises(ValueError, match="read-only"):
        euler.rows["p"][0] = 0


def test_moves_become_names_and_dead_stores_vanish():
    # x, H1, H2, H3 | D, m, z. H1 is written by the first row and read by the third through H2;
    # H3 is written by every row and read by none.
    update = np.zeros((3, 4, 7))
    update[:, 0, 0] = update[:, 3, 5] = 1.0
    update[0, 1, 4] = 2.0
    update[1, 2, 1] = 1.0
    update[2, 0, 2] = 0.5
    x_rows, h_rows, destinations = assign_slots(update)
    assert destinations.tolist() == [1, 0, 0]
    assert h_rows[0].tolist() == [0, 0, 0, 0, 0, 2, 0, 0]
    assert x_rows[2].tolist() == [1, 0.5, 0, 0, 0, 0, 0, 0]


def test_two_writes_in_a_row_are_refused():
    update = np.zeros((2, 3, 6))
    update[0, 1, 3], update[0, 2, 4] = 1.0, 1.0
    update[1, 0, [1, 2]] = 1.0
    with pytest.raises(TableError, match="row 0 writes history slots"):
        assign_slots(update)


def test_five_live_slots_are_refused():
    update = np.zeros((6, 6, 9))
    for i in range(5):
        update[i, 1 : i + 1, 1 : i + 1] = np.eye(i)
        update[i, i + 1, 6] = 1.0
    update[5, 0, 1:6] = 1.0
    with pytest.raises(TableError, match="more than 4"):
        assign_slots(update)
