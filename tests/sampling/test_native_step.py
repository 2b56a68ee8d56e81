"""Packed tables through the compiled step kernel, against diffusers in double precision."""

import numpy as np
import pytest
from diffusers_peer import run_scheduler
from solver_variants import variants
from trajectories import relative

from fastdiff.kernels.noise import TAG_STEP, normal
from fastdiff.kernels.step import step
from fastdiff.records import BATCH_ROW
from fastdiff.sampling import Schedule

SEED, IMAGE = 20_25, 3
STEPS, SHAPE = 13, (1, 3, 7, 5)
SIZE = 105


def step_noise(rows):
    draws = [normal(SEED, IMAGE, i, TAG_STEP, count=SIZE) for i in range(rows)]
    return np.array(draws).reshape(rows, *SHAPE)


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
@pytest.mark.parametrize(
    "variant", [v for v in variants() if v.takes(STEPS)], ids=lambda variant: variant.label
)
def test_kernel_follows_diffusers(variant):
    kind, spacing = variant.prediction_types[0], variant.spacings[-1]
    spacing = "trailing" if "trailing" in variant.spacings else spacing
    config = variant.configuration(kind, spacing)
    named = {"_class_name": variant.scheduler, **config}
    table = variant.make_solver(named).table(Schedule.from_config(named), STEPS, compat="diffusers")
    n = len(table)
    rng = np.random.default_rng(4)
    x = table.init_noise_sigma * rng.standard_normal(SHAPE).astype(np.float32)
    m, v = rng.standard_normal((2, n, *SHAPE)).astype(np.float32)
    v = np.tanh(v)
    learned = {"learned": np.exp(v.astype(np.float64)), "learned_range": v}
    want, _, _ = run_scheduler(
        variant.scheduler,
        config,
        STEPS,
        x,
        m,
        step_noise(n),
        double=True,
        variance=learned.get(variant.config.get("variance_type")),
        **variant.step_options,
    )
    pairs = np.concatenate([m.reshape(n, SIZE), v.reshape(n, SIZE)], 1)
    outputs = pairs if np.any(table.w) else m.reshape(n, SIZE)
    assert relative(run_native(table.pack(), outputs, x), want) < 5e-6
