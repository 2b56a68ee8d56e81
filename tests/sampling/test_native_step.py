"""Packed tables through the compiled step kernel, against diffusers in double precision."""

import numpy as np
import pytest
from conformance import relative, variants
from diffusers_peer import run_scheduler
from more_solvers import pndm, unipc
from packed_loop import run_packed

from fastdiff.kernels.noise import TAG_STEP, normal
from fastdiff.kernels.step import step
from fastdiff.records import BATCH_ROW
from fastdiff.sampling import Schedule, get_solver

SEED, IMAGE = 20_25, 3
STEPS, SHAPE = 13, (1, 3, 7, 5)
SIZE = 105


def step_noise():
    draws = [normal(SEED, IMAGE, i, TAG_STEP, count=SIZE) for i in range(STEPS)]
    return np.array(draws).reshape(STEPS, *SHAPE)


def run_native(packed, outputs, x):
    """One image through the kernel; `outputs` is (n, elements), with v beside m if needed."""
    state = np.array(x, np.float32).reshape(1, SIZE)
    history = np.full((4, 1, SIZE), np.nan, np.float32)
    row, trajectory = np.zeros(1, BATCH_ROW), []
    row["seed"], row["image"], row["uncond"] = SEED, IMAGE, -1
    for i in range(len(packed.rows)):
        row["table_row"] = row["draw"] = i
        flags = step(
            table=packed.rows, rows=row, state=state, output=outputs[i][None], history=history
        )
        assert not flags.any()
        trajectory.append(state.reshape(SHAPE).copy())
    return np.array(trajectory)


@pytest.mark.peer
@pytest.mark.parametrize("variant", list(variants()), ids=lambda variant: variant.label)
def test_kernel_follows_diffusers(variant):
    config = {**variant.config, "timestep_spacing": "trailing"}
    table = get_solver(variant.solver, **variant.options).table(
        Schedule(**config), STEPS, compat="diffusers"
    )
    rng = np.random.default_rng(4)
    x = table.init_noise_sigma * rng.standard_normal(SHAPE).astype(np.float32)
    m, v = rng.standard_normal((2, STEPS, *SHAPE)).astype(np.float32)
    v = np.tanh(v)
    learned = {"learned": np.exp(v.astype(np.float64)), "learned_range": v}
    in_step = variant.scheduler != "DPMSolverMultistepScheduler"
    want, _, _ = run_scheduler(
        variant.scheduler,
        config if in_step else {**config, **variant.step_options},
        STEPS,
        x,
        m,
        step_noise(),
        double=True,
        variance=learned.get(variant.config.get("variance_type")),
        **(variant.step_options if in_step else {}),
    )
    pairs = np.concatenate([m.reshape(STEPS, SIZE), v.reshape(STEPS, SIZE)], 1)
    outputs = pairs if np.any(table.w) else m.reshape(STEPS, SIZE)
    assert relative(run_native(table.pack(), outputs, x), want) < 5e-6


@pytest.mark.parametrize("name", ["unipc", "pndm"])
def test_kernel_runs_solvers_it_was_not_written_for(name):
    schedule = Schedule()
    if name == "unipc":
        table = unipc(*map(np.array, schedule.level(np.linspace(990, 12, STEPS + 1))), 3)
    else:
        times = list(range(800, 199, -200))
        table = pndm(lambda t: schedule.level(max(t, 0)), times, 200, runge_kutta=True)
    rng = np.random.default_rng(4)
    x = rng.standard_normal(SHAPE)
    m = rng.standard_normal((len(table), *SHAPE)).astype(np.float32)
    want = run_packed(table.pack(), m, x, np.zeros_like(m))
    got = run_native(table.pack(), m.reshape(len(table), SIZE), x)
    assert relative(got, want) < 2e-6
