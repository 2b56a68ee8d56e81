"""Compare every solver with diffusers, and write docs/conformance.md.

    PYTHONPATH=. python tests/sampling/conformance.py

The same model outputs and the same noise go through fastdiff's tables and through diffusers' own
schedulers, and whole trajectories are compared. See the page it writes.
"""

import itertools
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path

import diffusers
import numpy as np
import torch
from diffusers_peer import run_scheduler
from packed_loop import run_packed

from fastdiff.sampling import PREDICTION_TYPES, SPACINGS, Schedule, get_solver, run_table

SHAPE = (2, 3, 7, 5)
STEPS = (1, 5, 10, 13, 50)
PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


@dataclass(frozen=True)
class Variant:
    """One solver with its options, and the diffusers scheduler that computes the same."""

    solver: str
    scheduler: str
    options: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    step_options: dict = field(default_factory=dict)
    prediction_types: tuple = PREDICTION_TYPES

    @property
    def label(self):
        options = {**self.options, **self.config}
        return self.solver + "".join(f" {key}={value}" for key, value in options.items())


def variants():
    """Every solver and option that both sides have."""
    for variance, clip in itertools.product(
        ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"), (True, False)
    ):
        config = {"variance_type": variance, "clip_sample": clip}
        yield Variant("ddpm", "DDPMScheduler", config=config)
    for eta, (clip, rederive) in itertools.product(
        (0.0, 0.5, 1.0), ((False, False), (True, False), (True, True))
    ):
        yield Variant(
            "ddim",
            "DDIMScheduler",
            {"eta": eta, "use_clipped_model_output": rederive},
            {"clip_sample": clip},
            {"eta": eta, "use_clipped_model_output": rederive},
        )
    yield Variant("ddim", "DDIMScheduler", config={"set_alpha_to_one": False})
    yield Variant("euler", "EulerDiscreteScheduler")
    yield Variant("euler", "EulerDiscreteScheduler", config={"final_sigmas_type": "sigma_min"})
    # diffusers' ancestral scheduler does not take networks that predict the sample.
    kinds = ("epsilon", "v_prediction")
    yield Variant("euler_ancestral", "EulerAncestralDiscreteScheduler", prediction_types=kinds)
    for solver, algorithm in (("dpmpp_2m", "dpmsolver++"), ("dpmpp_2m_sde", "sde-dpmsolver++")):
        for options, config in (
            ({"solver_type": "midpoint"}, {}),
            ({"solver_type": "heun"}, {}),
            ({"lower_order_final": False}, {"final_sigmas_type": "sigma_min"}),
            ({"euler_at_final": True}, {"final_sigmas_type": "sigma_min"}),
        ):
            yield Variant(
                solver,
                "DPMSolverMultistepScheduler",
                options,
                config,
                {"algorithm_type": algorithm, **options},
            )


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
    levels: float = 0.0

    def largest(self, other):
        return Differences(*map(max, astuple(self), astuple(other)))


def compare(variant, prediction_type, spacing, steps, outputs=None, **settings):
    """Return the Differences of one case."""
    scaled = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    config = {
        **({} if variant.solver == "ddpm" else {**scaled, "steps_offset": 1}),
        "prediction_type": prediction_type,
        "timestep_spacing": spacing,
        **variant.config,
        **settings,
    }
    solver, schedule = get_solver(variant.solver, **variant.options), Schedule(**config)
    table = solver.table(schedule, steps, compat="diffusers")
    rng, shape = np.random.default_rng(steps), (steps, *SHAPE)
    x = rng.standard_normal(SHAPE).astype(np.float32) * np.float32(table.init_noise_sigma)
    noise = rng.standard_normal(shape).astype(np.float32)
    v = np.tanh(rng.standard_normal(shape)).astype(np.float32)
    if outputs is None:
        outputs = rng.standard_normal(shape).astype(np.float32)
    in_step = variant.scheduler != "DPMSolverMultistepScheduler"
    learned = {"learned": np.exp(v.astype(np.float64)), "learned_range": v}
    (exact, times, _), (shipped, _, alphas_cumprod) = (
        run_scheduler(
            variant.scheduler,
            config if in_step else {**config, **variant.step_options},
            steps,
            x,
            outputs,
            noise,
            double=double,
            variance=learned.get(config.get("variance_type")),
            **(variant.step_options if in_step else {}),
        )
        for double in (True, False)
    )
    np.testing.assert_allclose(table.t, times, rtol=0, atol=1e-9)
    packed = run_packed(table.pack(), outputs, x, noise, v)
    levels = np.nan
    if not schedule.rescale_betas_zero_snr:
        betas = 1 - alphas_cumprod / np.append(1.0, alphas_cumprod[:-1])
        theirs = solver.table(replace(schedule, trained_betas=betas), steps, compat="diffusers")
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


def measure():
    """Return {(solver, prediction type, spacing): (cases, largest Differences)}."""
    worst = {}
    for variant in variants():
        for prediction_type, spacing, steps in itertools.product(
            variant.prediction_types, SPACINGS, STEPS
        ):
            key = (variant.solver, prediction_type, spacing)
            cases, largest = worst.get(key, (0, Differences()))
            found = compare(variant, prediction_type, spacing, steps)
            worst[key] = (cases + 1, largest.largest(found))
    return worst


def write_page():
    """Replace the figures of docs/conformance.md, between its two markers."""
    lines = [
        f"diffusers {diffusers.__version__}, torch {torch.__version__}, NumPy {np.__version__}; "
        f"steps {', '.join(map(str, STEPS))}; samples of shape {SHAPE}.",
        "",
        "| solver | prediction | spacing | cases | table | packed | as shipped | on its levels |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (solver, prediction_type, spacing), (cases, errors) in sorted(measure().items()):
        figures = " | ".join(f"{error:.1e}" for error in astuple(errors))
        lines.append(f"| {solver} | {prediction_type} | {spacing} | {cases} | {figures} |")
    before, rest = PAGE.read_text(encoding="utf-8").split("<!-- figures -->\n")
    _, after = rest.split("<!-- end of figures -->\n")
    page = [before, "<!-- figures -->\n", "\n".join(lines), "\n<!-- end of figures -->\n", after]
    PAGE.write_text("".join(page), encoding="utf-8")


if __name__ == "__main__":
    write_page()
