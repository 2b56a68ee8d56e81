"""Every solver and option that fastdiff and diffusers both have, as pairs to compare."""

import itertools
from dataclasses import dataclass, field

from fastdiff.sampling import SPACINGS, get_solver, solver_from_config

KINDS = ("epsilon", "sample", "v_prediction")
NO_SAMPLE = ("epsilon", "v_prediction")
"""What the ancestral, KDPM2 and PNDM schedulers of diffusers take."""

SIGMA_SPACINGS = ("karras", "exponential", "beta")
BOTH_SPACINGS = (*SPACINGS, *SIGMA_SPACINGS)
STABLE_DIFFUSION = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}


@dataclass(frozen=True)
class Variant:
    """One solver with its options, and the diffusers scheduler that computes the same.

    options: what the solver must be, checked against what `solver_from_config` makes of `config`,
    unless diffusers takes them in each step (step_options).
    """

    solver: str
    scheduler: str
    options: dict = field(default_factory=dict)
    config: dict = field(default_factory=dict)
    step_options: dict = field(default_factory=dict)
    prediction_types: tuple = KINDS
    spacings: tuple = SPACINGS
    steps: tuple = (1, 1000)

    @property
    def label(self):
        options = {**self.options, **self.config}
        return self.solver + "".join(f" {key}={value}" for key, value in options.items())

    @property
    def cuts_times(self):
        cosine = self.config.get("beta_schedule") == "squaredcos_cap_v2"
        return cosine or self.config.get("use_flow_sigmas", False)

    def takes(self, steps):
        """Whether the solver has a table of so many steps."""
        return self.steps[0] <= steps <= self.steps[1]

    def configuration(self, prediction_type, spacing):
        """The whole configuration of the scheduler."""
        config = {}
        if self.scheduler.startswith("EDM"):
            config |= {"prediction_type": prediction_type, "sigma_schedule": spacing}
        elif self.scheduler.startswith("FlowMatch"):
            if spacing in SIGMA_SPACINGS:
                config[f"use_{spacing}_sigmas"] = True
        else:
            if self.solver != "ddpm":
                config |= STABLE_DIFFUSION | {"steps_offset": 1}
            config["prediction_type"] = prediction_type
            if spacing in SIGMA_SPACINGS:
                config[f"use_{spacing}_sigmas"] = True
                config["timestep_spacing"] = "linspace"
            elif spacing in SPACINGS:
                config["timestep_spacing"] = spacing
        if "Singlestep" in self.scheduler:  # its spacing is always linspace
            config.pop("steps_offset")
            config.pop("timestep_spacing", None)
        return config | self.config

    def make_solver(self, config):
        """The solver that the configuration names, which must be the one meant."""
        solver = get_solver(self.solver, **self.options)
        if not self.step_options:
            assert solver_from_config(config) == solver, self.label
        return solver


def variants():
    """Every pair."""
    yield from _denoising_chains()
    yield from _k_diffusion()
    yield from _dpm_solvers()
    yield from _singlestep()
    yield from _other_multistep()
    yield from _other_processes()


def _denoising_chains():
    for variance, clip in itertools.product(
        ("fixed_small", "fixed_small_log", "fixed_large", "learned", "learned_range"), (True, False)
    ):
        config = {"variance_type": variance, "clip_sample": clip}
        yield Variant("ddpm", "DDPMScheduler", config=config)
    for eta, (clip, rederive) in itertools.product(
        (0.0, 0.5, 1.0), ((False, False), (True, False), (True, True))
    ):
        options = {"eta": eta, "use_clipped_model_output": rederive}
        yield Variant("ddim", "DDIMScheduler", options, {"clip_sample": clip}, options)
    yield Variant("ddim", "DDIMScheduler", config={"set_alpha_to_one": False})
    inverse = {"scheduler": "DDIMInverseScheduler", "spacings": ("leading", "trailing")}
    for clip in (True, False):
        config = {"clip_sample": clip, "set_alpha_to_one": False}
        yield Variant("ddim_inverse", config=config, **inverse)
    # From the data itself a network that predicts the sample tells nothing about the noise.
    config = {"clip_sample": False}
    yield Variant("ddim_inverse", config=config, prediction_types=NO_SAMPLE, **inverse)
    for clip in (True, False):
        options = {"clip_sample": clip}
        config = {"clip_sample": clip}
        yield Variant("lcm", "LCMScheduler", options, config, spacings=("own",), steps=(1, 50))


def _k_diffusion():
    yield Variant("euler", "EulerDiscreteScheduler", spacings=BOTH_SPACINGS)
    yield Variant(
        "euler",
        "EulerDiscreteScheduler",
        config={"final_sigmas_type": "sigma_min"},
        spacings=BOTH_SPACINGS,
    )
    ends = {"sigma_min": 0.05, "sigma_max": 12.0}
    yield Variant(
        "euler", "EulerDiscreteScheduler", config=ends, spacings=SIGMA_SPACINGS, steps=(2, 50)
    )
    # The set-up of Stable Video Diffusion.
    continuous = {"timestep_type": "continuous", "sigma_min": 0.002, "sigma_max": 700.0}
    yield Variant(
        "euler",
        "EulerDiscreteScheduler",
        config={**continuous, "use_karras_sigmas": True, "timestep_spacing": "leading"},
        prediction_types=("v_prediction",),
        spacings=("karras",),
    )
    yield Variant("euler_ancestral", "EulerAncestralDiscreteScheduler", prediction_types=NO_SAMPLE)
    yield Variant("heun", "HeunDiscreteScheduler", spacings=BOTH_SPACINGS)
    clip = {"clip_sample": True, "clip_sample_range": 2.0}
    yield Variant("heun", "HeunDiscreteScheduler", {"clip_sample": True}, clip)
    for solver, scheduler in (
        ("kdpm2", "KDPM2DiscreteScheduler"),
        ("kdpm2_ancestral", "KDPM2AncestralDiscreteScheduler"),
        ("dpmpp_sde", "DPMSolverSDEScheduler"),
    ):
        # With one step their lists of times and levels do not fit together.
        yield Variant(
            solver, scheduler, prediction_types=NO_SAMPLE, spacings=BOTH_SPACINGS, steps=(2, 50)
        )


def _dpm_solvers():
    name = "DPMSolverMultistepScheduler"
    for solver, order, algorithm in (
        ("dpmpp_2m", 2, "dpmsolver++"),
        ("dpmpp_2m_sde", 2, "sde-dpmsolver++"),
        ("dpmpp_3m", 3, "dpmsolver++"),
        ("dpmpp_3m_sde", 3, "sde-dpmsolver++"),
        ("dpmpp_1", 1, "dpmsolver++"),
        ("dpmpp_1_sde", 1, "sde-dpmsolver++"),
    ):
        base = {"algorithm_type": algorithm, "solver_order": order}
        yield Variant(solver, name, config=base, spacings=BOTH_SPACINGS)
        if solver == "dpmpp_2m":
            yield Variant(solver, name, config={**base, "use_lu_lambdas": True}, spacings=("lu",))
            cosine = {**base, "beta_schedule": "squaredcos_cap_v2"}
            clipped = {**cosine, "lambda_min_clipped": -5.1}
            yield Variant(solver, name, config=clipped, spacings=("leading", "linspace"))
            yield Variant(solver, name, config=cosine, spacings=("karras",), steps=(2, 50))
        if order == 1:
            continue
        options = {"lower_order_final": False}
        ends = {"final_sigmas_type": "sigma_min"}
        yield Variant(solver, name, options, {**base, **options, **ends})
        if order == 2:
            options = {"solver_type": "heun"}
            yield Variant(solver, name, options, {**base, **options})
            options = {"euler_at_final": True}
            yield Variant(solver, name, options, {**base, **options, **ends})


def _singlestep():
    name, spacings = "DPMSolverSinglestepScheduler", ("linspace", *SIGMA_SPACINGS)
    for order, kind in itertools.product((1, 2, 3), ("midpoint", "heun")):
        options = {"solver_order": order, "solver_type": kind}
        yield Variant("dpmpp_single", name, options, options, spacings=spacings)
        if order > 1:
            config = {**options, "final_sigmas_type": "sigma_min"}
            yield Variant("dpmpp_single", name, options, config, spacings=("linspace",))


def _other_multistep():
    for order in (1, 2, 3):
        options = {"solver_order": order}
        yield Variant("deis", "DEISMultistepScheduler", options, options)
        # One step of a sigma spacing ends where it starts there.
        yield Variant(
            "deis",
            "DEISMultistepScheduler",
            options,
            options,
            spacings=SIGMA_SPACINGS,
            steps=(2, 50),
        )
    for order, kind in itertools.product((1, 2, 3), ("bh1", "bh2")):
        options = {"solver_order": order, "solver_type": kind}
        # On sigma = 0 bh1 of diffusers is inf times 0.
        ends = {"final_sigmas_type": "sigma_min"} if kind == "bh1" else {}
        spacings = BOTH_SPACINGS if kind == "bh2" else SPACINGS
        yield Variant(
            "unipc", "UniPCMultistepScheduler", options, {**options, **ends}, spacings=spacings
        )
    options = {"disable_corrector": (0, 2), "lower_order_final": False}
    config = {"disable_corrector": [0, 2], "lower_order_final": False}
    config["final_sigmas_type"] = "sigma_min"
    yield Variant("unipc", "UniPCMultistepScheduler", options, config)
    for skip, least in ((True, 2), (False, 4)):
        options = {"skip_prk_steps": skip}
        yield Variant(
            "pndm",
            "PNDMScheduler",
            options,
            options,
            prediction_types=NO_SAMPLE,
            steps=(least, 50),
        )


def _other_processes():
    for solver, scheduler, config in (
        ("euler", "EDMEulerScheduler", {}),
        ("dpmpp_2m", "EDMDPMSolverMultistepScheduler", {}),
        ("dpmpp_2m_sde", "EDMDPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
        ("dpmpp_3m", "EDMDPMSolverMultistepScheduler", {"solver_order": 3}),
    ):
        yield Variant(
            solver,
            scheduler,
            config={**config, "sigma_data": 0.7},
            prediction_types=NO_SAMPLE,
            spacings=("karras", "exponential"),
            steps=(2, 50),
        )
    flow = {"prediction_types": ("flow_prediction",), "spacings": ("flow",)}
    euler = "FlowMatchEulerDiscreteScheduler"
    for shift in (1.0, 3.0):
        yield Variant("euler", euler, config={"shift": shift}, **flow)
        yield Variant("heun", "FlowMatchHeunDiscreteScheduler", config={"shift": shift}, **flow)
        config = {"shift": shift, "stochastic_sampling": True}
        yield Variant("consistency", euler, config=config, **flow)
        multistep = {"use_flow_sigmas": True, "flow_shift": shift}
        for solver, name, order, extra in (
            ("dpmpp_2m", "DPMSolverMultistepScheduler", 2, {}),
            ("dpmpp_3m", "DPMSolverMultistepScheduler", 3, {}),
            (
                "dpmpp_2m_sde",
                "DPMSolverMultistepScheduler",
                2,
                {"algorithm_type": "sde-dpmsolver++"},
            ),
            ("dpmpp_single", "DPMSolverSinglestepScheduler", 3, {}),
            ("deis", "DEISMultistepScheduler", 2, {}),
            ("unipc", "UniPCMultistepScheduler", 2, {}),
        ):
            config = {**multistep, **extra, "solver_order": order}
            options = (
                {}
                if solver.startswith("dpmpp_2") or solver == "dpmpp_3m"
                else {"solver_order": order}
            )
            yield Variant(solver, name, options, config, **flow)
    yield Variant("euler", euler, config={"shift_terminal": 0.1}, **{**flow, "steps": (2, 50)})
    yield Variant(
        "euler",
        euler,
        prediction_types=("flow_prediction",),
        spacings=SIGMA_SPACINGS,
        steps=(2, 50),
    )
