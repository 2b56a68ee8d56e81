"""The sums and means that diffusers' own tests assert, to the precision they assert."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from published_values import NOISE, SAMPLE, Published, published, toy

from fastdiff.sampling import Schedule, get_solver, run_table, solver_from_config

FLOAT32 = 1e-6
"""Relative rounding of diffusers' loops; where sums are large its tests assert them to 1e-7."""


def run(case: Published):
    """Return the last x of a case's loop, by the compat table in float64."""
    named = {"_class_name": case.scheduler, **case.config}
    schedule, solver = Schedule.from_config(named), solver_from_config(named)
    if schedule.process == "vp":
        # diffusers rounds its levels to float32, which shows in the digits that it asserts.
        betas = torch.tensor(schedule.betas, dtype=torch.float32)
        rounded = torch.cumprod(1 - betas, 0).double().numpy()
        schedule = replace(schedule, trained_betas=1 - rounded / np.append(1.0, rounded[:-1]))
    whole = solver.table(schedule, case.steps, compat="diffusers")
    table = solver.table(schedule, case.steps, compat="diffusers", start=case.start)
    x = SAMPLE if case.loop == "plain" else SAMPLE * whole.init_noise_sigma
    if case.start and case.noised:
        x = table.alpha[0] * x + table.sigma[0] * NOISE
    generator = torch.Generator().manual_seed(0)
    z = [
        torch.randn(SAMPLE.shape, generator=generator).numpy() if row[0, -1] else np.zeros(1)
        for row in table.update
    ]
    if case.loop != "rescaled":
        rows = iter(table.c_in)

        def network(x_in, t):
            c_in = next(rows)  # EDM's test of DPM-Solver shows the network x itself
            return toy(x_in if case.loop == "scaled" else x_in / c_in, t)

        return run_table(table, network, x, z)[-1]
    state = np.zeros((table.history + 1, *x.shape))
    state[0] = x
    for i, update in enumerate(table.update):
        state[0] = table.c_in[i] * state[0]
        m = toy(state[0], table.t[i])
        D = table.p[i] * state[0] + table.q[i] * m
        state = np.tensordot(update, np.stack([*state, D, m, 0 * m + z[i]]), 1)
    return state[0]


def difference(case):
    """Return the differences of a case's sum and mean, as shares of what is allowed."""
    found = np.abs(run(case))
    wanted = (
        (found.sum(), case.total, case.total_tolerance + case.rounding),
        (found.mean(), case.mean, case.mean_tolerance),
    )
    return [
        float(abs(got - want) / (allowed + FLOAT32 * want))
        for got, want, allowed in wanted
        if want is not None
    ]


@pytest.mark.parametrize("case", list(published()), ids=lambda case: case.scheduler)
def test_published_values(case):
    assert max(difference(case)) < 1


@pytest.mark.parametrize("kind", ["DDIM", "DDPM"])
def test_parallel_schedulers_take_the_same_steps(kind):
    plain, parallel = (
        {"_class_name": f"{kind}{form}Scheduler", "clip_sample_range": 2.0, "thresholding": True}
        for form in ("", "Parallel")
    )
    assert solver_from_config(parallel) == solver_from_config(plain)
    assert Schedule.from_config(parallel) == Schedule.from_config(plain)


@pytest.mark.parametrize(
    ("times", "variance"),
    [((420, 400), 0.14771), ((980, 960), 0.32460), ((487, 486), 0.00979), ((999, 998), 0.02)],
)
def test_published_variances(times, variance):
    for solver in (get_solver("ddpm"), get_solver("ddim", eta=1.0)):
        table = solver.table(Schedule(), timesteps=times)
        assert table.update[0, 0, -1] ** 2 == pytest.approx(variance, abs=1e-5)
        assert table.update[1, 0, -1] == 0.0
