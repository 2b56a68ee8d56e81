"""Dynamic thresholding, guidance rescale and inpainting in the float64 loop."""

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import rescale_noise_cfg
from diffusers_peer import run_scheduler, scheduler_module
from hypothesis import given
from hypothesis import strategies as st
from trajectories import SHAPE, relative

from fastdiff.errors import InvalidArgument, TableError
from fastdiff.sampling import (
    Guidance,
    Inpainting,
    Schedule,
    StepTable,
    Thresholding,
    get_solver,
    rescale_factors,
    run_table,
    solver_from_config,
)

THRESHOLDED = {
    "DDIMScheduler": {},
    "DDPMScheduler": {},
    "DEISMultistepScheduler": {"solver_order": 3},
    "DPMSolverMultistepScheduler": {"solver_order": 3},
    "EDMDPMSolverMultistepScheduler": {"algorithm_type": "sde-dpmsolver++"},
    "LCMScheduler": {},
    "UniPCMultistepScheduler": {"solver_order": 2},
}


@pytest.mark.peer
@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in THRESHOLDED), ("DDIMScheduler", {"use_clipped_model_output": True})],
)
def test_thresholding_is_that_of_diffusers(name, options):
    """Whole trajectories; the limits differ by image and reach both of their own limits."""
    config = {
        "thresholding": True,
        "dynamic_thresholding_ratio": 0.9,
        "sample_max_value": 2.5,
        **THRESHOLDED[name],
    }
    named = {"_class_name": name, **config}
    solver, schedule = solver_from_config(named), Schedule.from_config(named)
    table = get_solver(solver, **options).table(schedule, 9, compat="diffusers")
    rng = np.random.default_rng(0)
    x, noise = rng.standard_normal(SHAPE), rng.standard_normal((9, *SHAPE))
    x *= table.init_noise_sigma
    outputs = rng.standard_normal((9, *SHAPE)) * np.array([0.4, 1.3])[:, None, None, None]
    want, _, _ = run_scheduler(name, config, 9, x, outputs, noise, double=True, **options)
    rows = iter(outputs)
    assert relative(run_table(table, lambda *_: next(rows), x, noise), want) < 1e-10
    packed = table.pack()
    assert packed.thresholding == Thresholding(0.9, 2.5)
    assert set(packed.rows["clip"]) == {np.float32(2.5)}


@given(
    seed=st.integers(0, 99),
    ratio=st.floats(0.01, 1.0),
    most=st.floats(1.0, 9.0),
    size=st.integers(1, 9),
)
def test_limits_are_clamped_quantiles(seed, ratio, most, size):
    D = 3 * np.random.default_rng(seed).standard_normal((3, size))
    want = torch.quantile(torch.tensor(D).abs(), ratio, dim=1).clamp(1.0, most)
    np.testing.assert_allclose(Thresholding(ratio, most).limits(D), want, rtol=1e-12)


def test_a_limit_of_one_is_plain_clipping():
    schedule = Schedule(thresholding=True, clip_sample=False)
    clipped = Schedule(clip_sample=True)
    x, m = np.random.default_rng(1).standard_normal((2, 3, 7))
    for solver in ("ddim", "euler", "heun"):
        got, want = (
            run_table(get_solver(solver, **options).table(kind, 5), lambda *_: m, 9 * x)
            for kind, options in ((schedule, {}), (clipped, {"clip_sample": True}))
        )
        np.testing.assert_allclose(got, want, rtol=1e-13)


def test_thresholding_is_refused_where_it_means_nothing():
    for settings in ({"sample_max_value": 0.0}, {"dynamic_thresholding_ratio": 1.5}):
        with pytest.raises(InvalidArgument, match=next(iter(settings))):
            Schedule(thresholding=True, **settings)
    with pytest.raises(InvalidArgument, match="must be a bool"):
        Schedule(thresholding=1)
    with pytest.raises(InvalidArgument, match="no denoised estimate"):
        get_solver("pndm").table(Schedule(thresholding=True), 9)
    table = get_solver("ddim").table(Schedule(), 3)
    pieces = {name: getattr(table, name) for name in StepTable.__dataclass_fields__}
    with pytest.raises(TableError, match="clip must be its max_value, 2, got"):
        StepTable(**{**pieces, "thresholding": Thresholding(0.99, 2.0)})


def test_schedulers_without_thresholding_ignore_its_keys():
    """diffusers drops keys that a class does not take when it makes one from another's config."""
    for name in ("EulerDiscreteScheduler", "PNDMScheduler", "DDIMInverseScheduler"):
        assert not Schedule.from_config({"_class_name": name, "thresholding": True}).thresholding
    config = {"thresholding": True, "sample_max_value": 1.5}
    schedule = Schedule.from_config({"_class_name": "DDPMScheduler", **config})
    assert (schedule.thresholding, schedule.sample_max_value) == (True, 1.5)
    assert Schedule.from_config(schedule.to_config()) == schedule


@given(seed=st.integers(0, 99), scale=st.floats(0, 9), rescale=st.floats(0, 1))
def test_guidance_rescale_is_that_of_diffusers(seed, scale, rescale):
    m_c, m_u = np.random.default_rng(seed).standard_normal((2, 3, 2, 5))
    m = m_u + scale * (m_c - m_u)
    want = rescale_noise_cfg(torch.tensor(m), torch.tensor(m_c), rescale)
    factors = rescale_factors(m_c, m, rescale)
    np.testing.assert_allclose(factors[:, None, None] * m, want, rtol=1e-12)
    mixed = Guidance(scale, rescale).mix(np.stack([m_c, m_u]), 0.6, 0.8)
    np.testing.assert_allclose(mixed, want, rtol=1e-12)


def test_constant_outputs_are_not_rescaled():
    assert rescale_factors(np.ones((2, 5)), np.ones((2, 5)), 0.7).tolist() == [1.0, 1.0]


def test_guidance_stops_outside_its_interval():
    table = get_solver("ddim").table(Schedule(clip_sample=False), 8)
    ratios = table.sigma / table.alpha
    guidance = Guidance(3.0, interval=(ratios[5], ratios[2]))  # of rows 2, 3 and 4
    pair = np.random.default_rng(3).standard_normal((2, 2, 5))
    used = []
    x = np.ones((2, 5))
    got = run_table(table, lambda *_: pair, x, guidance=guidance)
    rows = iter(range(8))

    def expected(*_):
        used.append(2 <= next(rows) <= 4)
        return pair[1] + 3.0 * (pair[0] - pair[1]) if used[-1] else pair[0]

    np.testing.assert_allclose(got, run_table(table, expected, x), rtol=1e-14)
    assert sum(used) == 3


@pytest.mark.peer
@pytest.mark.parametrize("name", ["DDIMScheduler", "HeunDiscreteScheduler"])
def test_inpainting_is_that_of_diffusers(name):
    """The loop of StableDiffusionInpaintPipeline with a network of four channels."""
    named = {"_class_name": name, "timestep_spacing": "linspace", "num_train_timesteps": 900}
    steps, start = 9, 2
    table = solver_from_config(named).table(
        Schedule.from_config(named), steps, compat="diffusers", start=start
    )
    rng = np.random.default_rng(4)
    image, noise = rng.standard_normal((2, *SHAPE))
    mask = rng.random((SHAPE[0], 1, *SHAPE[2:]))
    outputs = rng.standard_normal((len(table), *SHAPE))
    rows = iter(outputs)
    x = table.alpha[0] * image + table.sigma[0] * noise
    got = run_table(table, lambda *_: next(rows), x, inpainting=Inpainting(image, noise, mask))

    with scheduler_module(name, double=True, noise=None) as (module, _, _):
        scheduler = getattr(module, name)(**{k: v for k, v in named.items() if k[0] != "_"})
        scheduler.set_timesteps(steps)
        times = scheduler.timesteps[start * scheduler.order :]
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(start * scheduler.order)
        clean, drawn, paint = (torch.tensor(array) for array in (image, noise, mask))
        theirs = scheduler.add_noise(clean, drawn, times[:1].expand(len(clean)))
        for i, t in enumerate(times):
            theirs = scheduler.step(torch.tensor(outputs[i]), t, theirs).prev_sample
            kept = clean
            if i + 1 < len(times):
                kept = scheduler.add_noise(clean, drawn, times[i + 1].expand(len(clean)))
            theirs = (1 - paint) * kept + paint * theirs
            np.testing.assert_allclose(got[i], theirs, rtol=1e-10, atol=1e-12)


def test_levels_of_a_packed_table_are_where_its_rows_start_and_end():
    table = get_solver("heun").table(Schedule(), 6)
    levels = table.pack().levels
    assert (levels.shape, levels.dtype) == ((len(table) + 1, 2), np.float32)
    np.testing.assert_array_equal(
        levels[:-1], np.float32([*zip(table.alpha, table.sigma, strict=True)])
    )
    assert levels[-1].tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="read-only"):
        levels[0] = 0
