"""Every solver beside the scheduler of diffusers that computes the same thing.

The same model outputs and the same noise go through fastdiff's tables and through diffusers' own
schedulers, and whole trajectories are compared.
"""

import itertools
from dataclasses import astuple, dataclass, replace

import numpy as np
from diffusers_peer import run_scheduler
from packed_loop import run_packed
from solver_variants import SIGMA_SPACINGS

from fastdiff.sampling import Schedule, run_table

SHAPE = (2, 3, 7, 5)


def relative(got, want):
    """Largest difference of any step, relative to that step's largest value."""
    axes = tuple(range(1, want.ndim))
    scale = np.maximum(np.abs(want).max(axes), np.finfo(float).tiny)
    return float(np.max(np.abs(got - want).max(axes) / scale))


@dataclass(frozen=True)
class Differences:
    """Relative differences of one case, or the largest of several.

    table: the float64 table from diffusers in double. packed: the float32 rows run in float32 from
    diffusers in double. shipped: the same rows from diffusers as it is. levels: from diffusers as
    it is, with a table built on its own float32 alphas_cumprod.
    """

    table: float = 0.0
    packed: float = 0.0
    shipped: float = 0.0
    levels: float = np.nan

    def largest(self, other):
        return Differences(*np.fmax(astuple(self), astuple(other)).tolist())


def compare(variant, prediction_type, spacing, steps, outputs=None, start=0, **settings):
    """Return the Differences of one case."""
    config = {**variant.configuration(prediction_type, spacing), **settings}
    named = {"_class_name": variant.scheduler, **config}
    solver, schedule = variant.make_solver(named), Schedule.from_config(named)
    table = solver.table(schedule, steps, compat="diffusers", start=start)
    rng, shape = np.random.default_rng(steps), (len(table), *SHAPE)
    x = rng.standard_normal(SHAPE).astype(np.float32) * np.float32(table.init_noise_sigma)
    noise = rng.standard_normal(shape).astype(np.float32)
    v = np.tanh(rng.standard_normal(shape)).astype(np.float32)
    if outputs is None:
        outputs = rng.standard_normal(shape).astype(np.float32)
    learned = {"learned": np.exp(v.astype(np.float64)), "learned_range": v}
    (exact, times, _), (shipped, _, alphas_cumprod) = (
        run_scheduler(
            variant.scheduler,
            config,
            steps,
            x,
            outputs,
            noise,
            double=double,
            variance=learned.get(config.get("variance_type")),
            start=start,
            **variant.step_options,
        )
        for double in (True, False)
    )
    # Where diffusers makes times whole it cuts their fractions off, here they are rounded.
    cut = (spacing in SIGMA_SPACINGS and solver.rules.whole_times == "all") or variant.cuts_times
    np.testing.assert_allclose(table.t, times, rtol=1e-12, atol=1.0 if cut else 1e-9)
    packed = run_packed(table.pack(), outputs, x, noise, v)
    levels = np.nan
    if (
        alphas_cumprod is not None
        and schedule.process == "vp"
        and not schedule.rescale_betas_zero_snr
    ):
        betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
        theirs = solver.table(
            replace(schedule, trained_betas=betas), steps, compat="diffusers", start=start
        )
        levels = relative(run_packed(theirs.pack(), outputs, x, noise, v), shipped)
    return Differences(
        relative(run_table(table, in_order(outputs, v, table.w), x, noise), exact),
        relative(packed, exact),
        relative(packed, shipped),
        levels,
    )


def in_order(outputs, v, w):
    """The model of `run_table`, which calls it once per row, in order."""
    rows = itertools.count()

    def model(x_in, t):
        i = next(rows)
        m = outputs(x_in, t, i) if callable(outputs) else outputs[i]
        return (m, v[i]) if w[i] else m

    return model
