"""Images, masks, thresholding and all kinds of guidance, each against a plain loop."""

from functools import cache

import numpy as np
import pytest
import torch
from networks import RowByRow, eager_sampler, row_by_row_network

from fastdiff import get_solver
from fastdiff.errors import NonFiniteOutput
from fastdiff.kernels.noise import normal
from fastdiff.networks import Network
from fastdiff.sampling import Guidance, Inpainting, Schedule, run_table

SHAPE, N, SEED, STEPS, LABEL, NULL = (1, 3, 5), 2, 11, 9, 3, 4
SOLVERS = {
    "ddim": get_solver("ddim", eta=0.7),
    "dpmpp_2m_sde": get_solver("dpmpp_2m_sde"),
    "heun": get_solver("heun"),
}
PLAIN = Schedule(clip_sample=False)
THRESHOLDED = Schedule(thresholding=True, dynamic_thresholding_ratio=0.83, sample_max_value=1.6)
RNG = torch.Generator().manual_seed(0)
IMAGE = torch.randn(N, *SHAPE, generator=RNG)
MASK = torch.rand(N, *SHAPE, generator=RNG).mul(1.5).clamp(max=1.0)
LATENTS = torch.randn(N, *SHAPE, generator=RNG)
CASES = {
    "image": {"image": IMAGE, "strength": 0.5},
    "one image, own noise": {"image": IMAGE[:1], "latents": LATENTS},
    "mask": {"image": IMAGE, "mask": MASK},
    "one mask for all, some strength": {"image": IMAGE, "mask": MASK[:1], "strength": 0.6},
    "mask, own noise": {"image": IMAGE, "mask": MASK, "latents": LATENTS},
    "rescale": {"guidance_scale": 4.0, "guidance_rescale": 0.7},
    "rescale without guidance": {"guidance_rescale": 0.7},
    "interval": {"guidance_scale": 3.0, "guidance_interval": (0.4, 3.0)},
    "negative": {"guidance_scale": 3.0, "negative": {"class_labels": [2, 0]}},
    "sigmas": {"sigmas": (20.0, 6.0, 2.0, 0.7, 0.2, 0.05)},
    "everything": {
        "image": IMAGE,
        "mask": MASK,
        "strength": 0.8,
        "guidance_scale": 3.0,
        "guidance_interval": (0.1, 2.0),
        "guidance_rescale": 0.4,
        "negative": {"class_labels": 1},
    },
}


@cache
def sampler_of(schedule):
    return eager_sampler(row_by_row_network(channels_out=1), schedule, max_rows=4)


def plain_loop(solver, schedule, image=None, mask=None, strength=None, latents=None, **options):
    """The float64 loop of the sampling room, with what a request asks for written out."""
    sigmas = options.get("sigmas")
    strength = strength or (1.0 if image is None or mask is not None else 0.8)
    count = None if sigmas else STEPS
    skipped = (len(sigmas) if sigmas else STEPS) - int((count or len(sigmas)) * strength)
    table = solver.table(schedule, count, sigmas=sigmas, start=skipped)

    def noise(tag, draw):
        rows = [normal(SEED, image, draw, tag, count=15) for image in range(N)]
        return np.stack(rows).reshape(N, *SHAPE).astype(np.float64)

    drawn = noise(0, 0) if latents is None else latents.double().numpy()
    x, inpainting = drawn * table.init_noise_sigma, None
    if image is not None:
        clean = image.double().numpy()
        if mask is None or strength < 1:
            x = table.alpha[0] * clean + table.sigma[0] * drawn
        if mask is not None:
            inpainting = Inpainting(clean, drawn, mask.double().numpy())
    module = row_by_row_network(channels_out=1).module
    negative = options.get("negative", {}).get("class_labels", NULL)

    def model(x, t):
        labels = [torch.full((N,), LABEL), torch.as_tensor(negative).expand(N)]
        with torch.inference_mode():
            x32, times = torch.from_numpy(x).float(), torch.full((N,), float(t))
            return np.stack([module(x32, times, label).double().numpy() for label in labels])

    guidance = Guidance(
        options.get("guidance_scale", 1.0),
        options.get("guidance_rescale", 0.0),
        options.get("guidance_interval", (0.0, np.inf)),
    )
    draws = [noise(1, draw) for draw in range(len(table))]
    return run_table(table, model, x, draws, guidance=guidance, inpainting=inpainting)[-1]


@pytest.mark.parametrize("schedule", [PLAIN, THRESHOLDED], ids=["plain", "thresholded"])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", SOLVERS)
def test_the_engine_equals_the_plain_float64_loop(name, case, schedule):
    options = CASES[case]
    sampler = sampler_of(schedule)
    steps = {} if "sigmas" in options else {"steps": STEPS}
    got = sampler.sample(N, solver=SOLVERS[name], seed=SEED, class_labels=LABEL, **steps, **options)
    want = plain_loop(SOLVERS[name], schedule, **options)
    np.testing.assert_allclose(got.double().numpy(), want, rtol=2e-4, atol=5e-5)


@pytest.mark.parametrize("case", [case for case in CASES if case != "rescale without guidance"])
def test_every_case_changes_the_images(case):
    """So that the comparison above compares something."""
    sampler = sampler_of(PLAIN)
    options = CASES[case]
    base = {"guidance_scale": options.get("guidance_scale", 1.0), "class_labels": LABEL}
    steps = {} if "sigmas" in options else {"steps": STEPS}
    plain = sampler.sample(N, seed=SEED, steps=STEPS, **base)
    assert (sampler.sample(N, seed=SEED, **steps, **{**base, **options}) - plain).abs().max() > 0.02


def test_unguided_steps_save_their_evaluation():
    sampler = sampler_of(PLAIN)
    table = SOLVERS["ddim"].table(PLAIN, STEPS)
    ratio = table.sigma / table.alpha
    RowByRow.calls.clear()
    interval = (ratio[5] * 1.001, ratio[2] * 1.001)  # rows 2, 3 and 4
    sampler.sample(N, seed=0, steps=STEPS, guidance_scale=2.0, guidance_interval=interval)
    assert RowByRow.calls == [2, 2, 4, 4, 4, 2, 2, 2, 2]


@pytest.mark.parametrize("name", ["ddim", "ddpm", "dpmpp_2m", "heun", "euler", "unipc"])
@pytest.mark.parametrize("exact_end", [True, False])
def test_what_a_mask_keeps_is_exactly_the_image(name, exact_end):
    """Also where the solver ends at a level that is not quite clean."""
    schedule = Schedule(
        set_alpha_to_one=exact_end, final_sigmas_type="zero" if exact_end else "sigma_min"
    )
    sampler = sampler_of(schedule)
    mask = (torch.arange(15) % 4 == 1).float().view(1, *SHAPE)
    for strength in (1.0, 0.5):
        images = sampler.sample(
            image=IMAGE, mask=mask, strength=strength, solver=name, steps=6, seed=1
        )
        kept = mask.expand_as(images) == 0
        assert torch.equal(images[kept], IMAGE[kept])
        assert (images[~kept] - IMAGE[~kept]).abs().min() > 1e-4


def test_a_mask_of_ones_changes_no_bit_and_channels_may_share_it():
    sampler = sampler_of(PLAIN)
    plain = sampler.sample(N, steps=5, seed=2, eta=1.0)
    painted = sampler.sample(image=IMAGE, mask=torch.ones(1, *SHAPE), steps=5, seed=2, eta=1.0)
    assert torch.equal(painted, plain)


def test_a_callback_sees_thresholded_estimates():
    sampler = sampler_of(THRESHOLDED)
    seen = []
    images = sampler.sample(N, steps=4, seed=0, callback=lambda info: seen.append(info.denoised))
    assert all(estimate.abs().max() <= 1 for estimate in seen)
    torch.testing.assert_close(seen[-1], images, rtol=0, atol=1e-6)


def test_negative_values_end_with_their_request():
    """The next request in the slots has the null values again."""
    sampler = sampler_of(PLAIN)
    plain = sampler.sample(N, steps=4, seed=0, class_labels=1, guidance_scale=3.0)
    sampler.sample(N, steps=4, seed=0, guidance_scale=3.0, negative={"class_labels": 2})
    again = sampler.sample(N, steps=4, seed=0, class_labels=1, guidance_scale=3.0)
    assert torch.equal(again, plain)


class Huge(torch.nn.Module):
    """Finite output, whose squares overflow for label 2."""

    def forward(self, x, t, class_labels):
        scale = torch.where(class_labels == 2, 1e30, 0.1)
        return scale[:, None, None, None] * x


def test_deviations_that_overflow_fail_their_own_request():
    network = row_by_row_network(1)
    network = Network(Huge(), network.sample_shape, network.conditioning, "huge")
    engine = eager_sampler(network, Schedule(clip_sample=True, prediction_type="sample")).engine
    sampler = eager_sampler(network, Schedule(clip_sample=True, prediction_type="sample"))
    common = {"steps": 3, "guidance_scale": 2.0, "seed": 1, "guidance_rescale": 0.5}
    bad, good = (
        engine.submit(sampler.request(1, class_labels=label, **common)) for label in (2, 1)
    )
    while not good.done:
        engine.advance(good)
    with pytest.raises(NonFiniteOutput, match="step 1 of 3"):
        bad.result()
    assert torch.equal(good.result(), sampler.sample(1, class_labels=1, **common))
