"""Every solver against diffusers: same model outputs, same noise, whole trajectories."""

import itertools

import numpy as np
import pytest
from published_values import toy
from solver_variants import SIGMA_SPACINGS, variants
from trajectories import compare

VARIANTS = {variant.label: variant for variant in variants()}

# diffusers as shipped rounds alphas_cumprod to float32, where 1 - alphas_cumprod near the data
# keeps three digits. On those rounded levels every case agrees to 1e-5, on the true ones to this;
# the figures by case are in docs/conformance.md.
SHIPPED_BOUND = 1e-4

CANCELLING = ("deis", "dpmpp_3m", "dpmpp_3m_sde", "unipc")
"""Where diffusers' own float32 arithmetic loses more than these bounds (docs/conformance.md)."""


@pytest.mark.peer
@pytest.mark.parametrize("variant", list(variants()), ids=lambda variant: variant.label)
def test_trajectories_are_those_of_diffusers(variant):
    for prediction_type, spacing, steps in itertools.product(
        variant.prediction_types, variant.spacings, (1, 13)
    ):
        if variant.takes(steps) and (spacing not in SIGMA_SPACINGS or steps == 13):
            found = compare(variant, prediction_type, spacing, steps)
            case = (prediction_type, spacing, steps)
            assert found.table < 1e-10, case
            assert found.packed < 1e-5, case
            if variant.solver not in CANCELLING:
                assert np.isnan(found.levels) or found.levels < 1e-5, case
                assert found.shipped < SHIPPED_BOUND, case


@pytest.mark.peer
@pytest.mark.parametrize("label", sorted({v.solver for v in variants()} - {"consistency", "lcm"}))
def test_networks_that_look_at_their_input(label):
    """The published toy network, whose output depends on x and so compounds every difference."""
    variant = next(v for v in VARIANTS.values() if v.solver == label)
    for prediction_type in variant.prediction_types:
        spacing = variant.spacings[0]
        found = compare(variant, prediction_type, spacing, 13, outputs=lambda x, t, _: toy(x, t))
        assert found.table < 1e-10
        assert found.packed < 2e-5


@pytest.mark.peer
@pytest.mark.parametrize(
    ("spacing", "settings"),
    [
        ("trailing", {"rescale_betas_zero_snr": True}),
        ("leading", {"beta_schedule": "squaredcos_cap_v2"}),
        (
            "linspace",
            {"trained_betas": np.geomspace(1e-4, 0.03, 250).tolist(), "num_train_timesteps": 250},
        ),
        ("leading", {"num_train_timesteps": 77, "beta_start": 1e-3, "beta_end": 0.2}),
    ],
)
def test_other_schedules(spacing, settings):
    chosen = {variant.solver: variant for variant in VARIANTS.values()}
    chosen = {name: chosen[name] for name in ("ddpm", "ddim", "euler_ancestral", "dpmpp_1")}
    for variant, prediction_type in itertools.product(chosen.values(), ("sample", "v_prediction")):
        if prediction_type in variant.prediction_types:
            found = compare(variant, prediction_type, spacing, 7, **settings)
            assert found.table < 1e-10, (variant.label, prediction_type)
            assert found.packed < 1e-5, (variant.label, prediction_type)
