"""What diffusers' own tests assert: sums and means of |x| after whole loops of a toy network.

Each file of diffusers' tests/schedulers that asserts such values for a scheduler that fastdiff runs
is here, with every value in it. The set-up is that of its `SchedulerCommonTest`: a fixed ramp as
the sample, its reverse as the noise, the network x t / (t + 1).
"""

from dataclasses import dataclass, field

import numpy as np

SAMPLE = np.arange(768).reshape(3, 8, 8, 4).transpose(3, 0, 1, 2) / 768
NOISE = np.arange(768)[::-1].reshape(3, 8, 8, 4).transpose(3, 0, 1, 2) / 768

LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
K_DIFFUSION = {**LINEAR, "num_train_timesteps": 1100}
KARRAS = {"use_karras_sigmas": True}
V = {"prediction_type": "v_prediction"}
THRESHOLD = {"thresholding": True, "dynamic_thresholding_ratio": 0.87, "sample_max_value": 0.5}


def toy(x, t):
    """The network."""
    return x * t / (t + 1)


@dataclass(frozen=True)
class Published:
    """One assertion.

    loop: how the test steps. ``plain``: the network sees x. ``scaled``: it sees the scaled input.
    ``rescaled``: the scaled input is also what is stepped, and what x becomes. All but the first
    start from the sample times `init_noise_sigma`.
    start: steps left out; the sample is then noised to the first level (unless `noised` is False).
    total, mean: sum and mean of |x|, each asserted within its tolerance; None where it is not.
    rounding: what the arithmetic of diffusers adds to that in float32.
    """

    scheduler: str
    config: dict = field(default_factory=dict)
    total: float | None = None
    mean: float | None = None
    steps: int = 10
    loop: str = "plain"
    start: int = 0
    noised: bool = True
    rounding: float = 0.0
    total_tolerance: float = 1e-2
    mean_tolerance: float = 1e-3


def published():
    """Every assertion."""
    yield from _ddim_and_ddpm()
    yield from _k_diffusion()
    yield from _multistep()
    yield from _edm()


def _ddim_and_ddpm():
    one, no = ({"beta_start": 0.01, "set_alpha_to_one": value} for value in (True, False))
    name = "DDIMScheduler"
    for config, total, mean in (
        ({}, 172.0067, 0.223967),
        (V, 52.5302, 0.0684),
        (one, 149.8295, 0.1951),
        (no, 149.0784, 0.1941),
    ):
        yield Published(name, {**LINEAR, **config}, total, mean)
    yield Published(name, LINEAR, 354.5418, 0.4616, start=8)
    for config, total, mean in (
        ({}, 671.6816, 0.8746),
        (V, 1394.2185, 1.8154),
        (one, 539.9622, 0.7031),
        (no, 542.6722, 0.7066),
    ):
        yield Published("DDIMInverseScheduler", {**LINEAR, **config}, total, mean)
    for config, total, mean in (
        ({}, 198.1318, 0.2580),
        (V, 67.3986, 0.0878),
        (one, 230.0399, 0.2995),
        (no, 186.9482, 0.2434),
    ):
        yield Published("PNDMScheduler", {**LINEAR, **config}, total, mean)
    name = "DDPMScheduler"
    yield Published(name, LINEAR, 258.9606, 0.3372, steps=1000)
    yield Published(name, {**LINEAR, **V}, 202.0296, 0.2631, steps=1000)
    # 1 - alpha_t^2 / alpha_s^2 of one training step near the data keeps three digits there.
    end = {"steps": 1000, "start": 998, "rounding": 0.02}
    yield Published(name, LINEAR, 387.9466, 0.5051, **end)
    stable_diffusion = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    for steps, total, mean in ((1, 18.7097, 0.0244), (10, 197.7616, 0.2575)):
        yield Published("LCMScheduler", stable_diffusion, total, mean, steps, total_tolerance=1e-3)


def _k_diffusion():
    for name, rows in {
        "EulerDiscreteScheduler": (
            ({}, 10.0807, 0.0131),
            (V, 0.0002, 2.2676e-06),
            (KARRAS, 124.52299499511719, 0.16213932633399963),
        ),
        "EulerAncestralDiscreteScheduler": (({}, 152.3192, 0.1983), (V, 108.4439, 0.1412)),
        "HeunDiscreteScheduler": (
            ({}, 0.1233, 0.0002),
            (V, 4.6934e-07, 6.1112e-10),
            (KARRAS, 0.00015, 1.9869554535034695e-07),
        ),
        "KDPM2DiscreteScheduler": (({}, 20.4125, 0.0266), (V, 4.6934e-07, 6.1112e-10)),
        "KDPM2AncestralDiscreteScheduler": (({}, 13979.9433, 18.2030), (V, 331.8133, 0.4320)),
    }.items():
        for config, total, mean in rows:
            loose = 5e-3 if mean > 1 else 1e-3
            yield Published(
                name, {**K_DIFFUSION, **config}, total, mean, loop="rescaled", mean_tolerance=loose
            )
    for name, total, mean in (
        ("EulerDiscreteScheduler", 57062.9297, 74.3007),
        ("EulerAncestralDiscreteScheduler", 56163.0508, 73.1290),
        ("HeunDiscreteScheduler", 75074.8906, 97.7538),
        ("KDPM2DiscreteScheduler", 70408.4062, 91.6776),
        ("KDPM2AncestralDiscreteScheduler", 93087.3437, 121.2074),
    ):
        loose = 5e-3 if "KDPM2Anc" in name else 1e-3
        yield Published(
            name, K_DIFFUSION, total, mean, loop="rescaled", start=8, mean_tolerance=loose
        )


def _multistep():
    name = "DPMSolverMultistepScheduler"
    ends = {"final_sigmas_type": "sigma_min"}
    base = {**LINEAR, **ends, "lower_order_final": False}
    for config, mean in (
        ({}, 0.3301),
        (THRESHOLD, 1.1364),
        (V, 0.2251),
        ({**V, **KARRAS}, 0.2096),
        ({**V, "use_lu_lambdas": True}, 0.1554),
    ):
        yield Published(name, {**base, **config}, mean=mean)
    yield Published(name, base, 318.4111, 0.4146, start=5)
    name, base = "DPMSolverSinglestepScheduler", {**LINEAR, **ends}
    for config, mean in (({}, 0.2791), (V, 0.1453), (KARRAS, 0.2248), ({**V, **KARRAS}, 0.0649)):
        yield Published(name, {**base, **config}, mean=mean)
    yield Published(name, base, 269.2187, 0.3505, start=5)
    yield Published(name, base, mean=0.2574, steps=50, start=3, noised=False)
    name, base = "UniPCMultistepScheduler", {**LINEAR, **ends}
    for config, mean in (({}, 0.2464), (KARRAS, 0.2925), (V, 0.1014), ({**KARRAS, **V}, 0.1966)):
        yield Published(name, {**base, **config}, mean=mean)
    yield Published(name, base, 315.5757, 0.4109, start=8)
    name = "DEISMultistepScheduler"
    for config, mean in (({}, 0.23916), (V, 0.091)):
        yield Published(name, {**LINEAR, **config}, mean=mean)
    yield Published(name, LINEAR, 315.3016, 0.41054, start=8)


def _edm():
    config = {"num_train_timesteps": 256}
    yield Published(
        "EDMEulerScheduler", config, 34.1855, 0.044, loop="scaled", total_tolerance=1e-3
    )
    base = {"lower_order_final": False, "final_sigmas_type": "sigma_min"}
    name = "EDMDPMSolverMultistepScheduler"
    for config, mean in (({}, 0.0001), (V, 0.0092), (THRESHOLD, 0.0080)):
        yield Published(name, {**base, **config}, mean=mean)
    yield Published(name, base, 8.1661, 0.0106, start=5)


#: Schedulers whose published values are not computed here, with the reason.
NOT_COMPARED = {
    "DDIMParallelScheduler": "the steps and values of DDIMScheduler",
    "DDPMParallelScheduler": "the steps and values of DDPMScheduler",
    "DPMSolverSDEScheduler": "its values depend on the random tree of torchsde",
    "CMStochasticIterativeScheduler": "no configuration is read; `consistency` runs its models",
    "FlowMatchEulerDiscreteScheduler": "its tests assert no sums",
    "CosineDPMSolverMultistepScheduler": "no solver",
    "DPMSolverMultistepInverseScheduler": "no solver",
    "IPNDMScheduler": "no solver",
    "LMSDiscreteScheduler": "no solver",
    "SASolverScheduler": "no solver",
    "ScoreSdeVeScheduler": "no solver",
    "TCDScheduler": "no solver",
    "UnCLIPScheduler": "no solver",
    "VQDiffusionScheduler": "discrete data",
}
