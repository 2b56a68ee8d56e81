"""Compare every solver with diffusers, and write docs/conformance.md.

    PYTHONPATH=. python tests/sampling/conformance.py

The same model outputs and the same noise go through fastdiff's tables and through diffusers' own
schedulers, and whole trajectories are compared. See the page it writes.
"""

import itertools
from dataclasses import dataclass, field
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


def compare(variant, prediction_type, spacing, steps, outputs=None, **settings):
    """Return the relative differences (table, packed, shipped) of one case.

    table: float64 table against diffusers in double. packed: float32 rows run in float32 against
    diffusers in double. shipped: the same against diffusers as it is.
    """
    scaled = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    config = {
        **(scaled if variant.solver != "ddpm" else {}),
        "prediction_type": prediction_type,
        "timestep_spacing": spacing,
        "steps_offset": 1 if variant.solver != "ddpm" else 0,
        **variant.config,
        **settings,
    }
    table = get_solver(variant.solver, **variant.options).table(
        Schedule(**config), steps, compat="diffusers"
    )
    rng = np.random.default_rng(steps)
    shape = (steps, *SHAPE)
    x = rng.standard_normal(SHAPE).astype(np.float32) * np.float32(table.init_noise_sigma)
    noise = rng.standard_normal(shape).astype(np.float32)
    v = np.tanh(rng.standard_normal(shape)).astype(np.float32)
    if outputs is None:
        outputs = rng.standard_normal(shape).astype(np.float32)
    # run_table calls its model once per row, in order.
    rows = iter(range(steps))

    def model(x_in, t):
        i = next(rows)
        m = outputs(x_in, t, i) if callable(outputs) else outputs[i]
        return (m, v[i]) if table.w[i] else m

    step_options = dict(variant.step_options)
    if variant.scheduler == "DPMSolverMultistepScheduler":
        config, step_options = {**config, **step_options}, {}
    variance = {"learned": np.exp(v.astype(np.float64)), "learned_range": v}.get(
        config.get("variance_type")
    )
    peer = {
        double: run_scheduler(
            variant.scheduler,
            config,
            steps,
            x,
            outputs,
            noise,
            double=double,
            variance=variance,
            **step_options,
        )
        for double in (True, False)
    }
    exact, times = peer[True]
    np.testing.assert_allclose(table.t, times, rtol=0, atol=1e-9)
    packed = run_packed(table.pack(), outputs, x, noise, v)
    return (
        relative(run_table(table, model, x, noise), exact),
        relative(packed, exact),
        relative(packed, peer[False][0]),
    )


def measure():
    """Return {(solver, prediction type, spacing): (cases, table, packed, shipped)}, worst of all."""
    worst = {}
    for variant in variants():
        for prediction_type, spacing, steps in itertools.product(
            variant.prediction_types, SPACINGS, STEPS
        ):
            key = (variant.solver, prediction_type, spacing)
            cases, *so_far = worst.get(key, (0, 0.0, 0.0, 0.0))
            found = compare(variant, prediction_type, spacing, steps)
            worst[key] = (cases + 1, *(max(*pair) for pair in zip(so_far, found, strict=True)))
    return worst


def write_page():
    """Replace the figures of docs/conformance.md, between its two markers."""
    lines = [
        f"diffusers {diffusers.__version__}, torch {torch.__version__}, NumPy {np.__version__}; "
        f"steps {', '.join(map(str, STEPS))}; samples of shape {SHAPE}.",
        "",
        "| solver | prediction | spacing | cases | table, float64 | packed, float32 | as shipped |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (solver, prediction_type, spacing), (cases, *errors) in sorted(measure().items()):
        figures = " | ".join(f"{error:.1e}" for error in errors)
        lines.append(f"| {solver} | {prediction_type} | {spacing} | {cases} | {figures} |")
    before, rest = PAGE.read_text(encoding="utf-8").split("<!-- figures -->\n")
    _, after = rest.split("<!-- end of figures -->\n")
    page = [before, "<!-- figures -->\n", "\n".join(lines), "\n<!-- end of figures -->\n", after]
    PAGE.write_text("".join(page), encoding="utf-8")


if __name__ == "__main__":
    write_page()
