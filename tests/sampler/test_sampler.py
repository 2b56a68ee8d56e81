import numpy as np
import pytest
import torch
from networks import RowByRow, eager_sampler, row_by_row_network

from fastdiff import errors, get_solver
from fastdiff.kernels.noise import normal
from fastdiff.networks import Conditioning, Network
from fastdiff.sampling import Schedule


@pytest.fixture
def sampler():
    return eager_sampler(row_by_row_network())


def test_n_comes_from_whichever_argument_has_it(sampler):
    assert len(sampler.sample(3, steps=2, seed=0)) == 3
    assert len(sampler.sample(class_labels=[1, 2], steps=2, seed=0)) == 2
    assert len(sampler.sample(class_labels=2, steps=2, seed=0)) == 1
    assert len(sampler.sample(seed=[5, 6, 7, 8], steps=2)) == 4
    assert len(sampler.sample(latents=torch.zeros(2, 1, 3, 5), steps=2)) == 2


def test_one_label_serves_all_images(sampler):
    one = sampler.sample(3, class_labels=2, steps=4, seed=1)
    each = sampler.sample(class_labels=[2, 2, 2], steps=4, seed=1)
    assert torch.equal(one, each)


def test_a_missing_label_means_unconditional(sampler):
    missing = sampler.sample(2, steps=4, seed=1)
    assert not torch.equal(missing, sampler.sample(2, class_labels=0, steps=4, seed=1))
    guided = sampler.sample(2, steps=4, seed=1, guidance_scale=3.0)
    torch.testing.assert_close(missing, guided, rtol=0, atol=1e-5)  # m_u + 3 (m_u - m_u)


def test_a_common_seed_numbers_its_images_and_own_seeds_do_not(sampler):
    common = sampler.sample(3, seed=9, steps=3, eta=1.0)
    assert torch.equal(common[:2], sampler.sample(2, seed=9, steps=3, eta=1.0))
    own = sampler.sample(seed=[9, 9, 4], steps=3, eta=1.0)
    assert torch.equal(own[0], own[1])
    assert torch.equal(own[0], common[0])
    assert not torch.equal(own[2], own[0])


def test_without_a_seed_every_call_differs(sampler):
    assert not torch.equal(sampler.sample(1, steps=2), sampler.sample(1, steps=2))


def test_latents_replace_the_seeded_noise(sampler):
    z = torch.from_numpy(normal(7, count=15)).view(1, 1, 3, 5)
    for solver in ("ddim", "euler"):
        given = sampler.sample(latents=z, solver=solver, steps=3)
        assert torch.equal(given, sampler.sample(1, seed=7, solver=solver, steps=3))


def test_guidance_may_differ_per_image(sampler):
    both = sampler.sample(class_labels=[1, 1], guidance_scale=[1.0, 4.0], seed=[3, 3], steps=3)
    for image, scale in zip(both, (1.0, 4.0), strict=True):
        alone = sampler.sample(class_labels=[1], guidance_scale=scale, seed=[3], steps=3)
        assert torch.equal(image, alone[0])


def test_explicit_timesteps_are_what_the_model_sees(sampler, monkeypatch):
    seen, row = [], RowByRow.row

    def spy(self, x, t, label):
        seen.append(float(t))
        return row(self, x, t, label)

    monkeypatch.setattr(RowByRow, "row", spy)
    sampler.sample(1, timesteps=[900, 500, 3], seed=0)
    assert seen == [900, 500, 3]


def test_strength_counts_steps_as_diffusers_does(sampler):
    counts = {(50, 0.8): 40, (50, 0.58): 28, (7, 0.5): 3, (3, 1.0): 3, (1000, 0.001): 1}
    for (steps, strength), expected in counts.items():
        request = sampler.request(image=IMAGE, steps=steps, strength=strength)
        assert request.steps == expected
        assert (
            request.table.rows["t"][0] == sampler.request(1, steps=steps).table.rows["t"][-expected]
        )
    assert sampler.request(image=IMAGE, timesteps=[900, 500, 200, 3], strength=0.5).steps == 2
    assert sampler.request(image=IMAGE, sigmas=[9.0, 3.0, 1.0, 0.1]).steps == 3  # 0.8 of 4
    assert sampler.request(image=IMAGE, mask=IMAGE, steps=9).steps == 9


def test_callback_sees_every_step_and_the_estimate(sampler):
    infos = []
    images = sampler.sample(2, steps=4, seed=0, callback=infos.append)
    assert [(info.step, info.total) for info in infos] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert all(info.images.tolist() == [0, 1] for info in infos)
    assert infos[0].denoised.abs().max() <= 1  # clip_sample is on
    # DDIM's last step lands on sigma 0, so the last estimate is the image.
    torch.testing.assert_close(infos[-1].denoised, images, rtol=0, atol=1e-6)


def test_callback_may_cancel_and_its_errors_come_through(sampler):
    def cancel_at_two(info):
        if info.step == 2:
            info.cancel()

    with pytest.raises(errors.Cancelled, match="step 2 of 9"):
        sampler.sample(2, steps=9, seed=0, callback=cancel_at_two)

    def fail(info):
        raise KeyError("planted")

    with pytest.raises(KeyError, match="planted"):
        sampler.sample(2, steps=9, seed=0, callback=fail)
    assert len(sampler.sample(2, steps=2, seed=0)) == 2  # and the engine lives


def test_more_images_than_slots_run_in_waves():
    small = eager_sampler(row_by_row_network(), max_rows=3)
    whole = eager_sampler(row_by_row_network())
    expected = whole.sample(8, steps=3, seed=2)
    seen = []
    got = small.sample(8, steps=3, seed=2, callback=lambda info: seen.append(info.images.tolist()))
    assert torch.equal(got, expected)
    assert seen[0] == [0, 1, 2]
    assert seen[-1] == [6, 7]


def test_progress_changes_nothing(sampler, monkeypatch):
    quiet = sampler.sample(2, steps=3, seed=0)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    assert torch.equal(sampler.sample(2, steps=3, seed=0, progress=True), quiet)


IMAGE = torch.ones(1, 1, 3, 5)
BAD_CALLS = {
    "how many images": {},
    "n must be a whole number of at least 0, got -1": {"n": -1},
    "n must be a whole number of at least 0, got True": {"n": torch.tensor(True)},
    "n must be a whole number of at least 0, got 2.0": {"n": np.float64(2)},
    "1000000000000000000 images of 1 x 3 x 5 would take .* ask for less": {"n": 10**18},
    "steps": {"n": 1, "steps": 0},
    "num_train_timesteps|1000": {"n": 1, "steps": 1001},
    "unknown solver 'rk4'; known: .*ddim": {"n": 1, "solver": "rk4"},
    "labels from 0 to 3, got 4": {"class_labels": [0, 4]},
    "labels from 0 to 3, got -1": {"class_labels": [-1]},
    "class_labels: expected integers, got torch.float64": {"class_labels": [0.5]},
    "class_labels: expected numbers, got str": {"class_labels": "seven"},
    r"class_labels: expected shape \(n\), got \(1, 2\)": {"class_labels": [[1, 2]]},
    "sample.. got 'prompt'; this model's conditioning: class_labels": {"n": 1, "prompt": "cat"},
    "disagree on the number of images: class_labels has 2, n has 3": {
        "n": 3,
        "class_labels": [1, 2],
    },
    "seed has 2, n has 3": {"n": 3, "seed": [1, 2]},
    "seed: expected an integer from 0 to 2.64 - 1, got -1": {"n": 1, "seed": -1},
    "seed: expected an integer .* got 1.5": {"n": 1, "seed": 1.5},
    "guidance_scale: expected a number or 2": {"n": 2, "guidance_scale": [1.0, 2.0, 3.0]},
    "guidance_scale: expected finite": {"n": 1, "guidance_scale": float("nan")},
    "guidance_scale: expected numbers, got '2'": {"n": 1, "guidance_scale": "2"},
    r"latents: expected \(n, 1, 3, 5\), got \(2, 3, 5\)": {"latents": torch.zeros(2, 3, 5)},
    "eta": {"n": 1, "solver": "euler", "eta": 0.5},
    "timesteps": {"n": 1, "timesteps": [5, 10]},
    "compat": {"n": 1, "compat": "k-diffusion"},
    "give timesteps or sigmas, not both": {"n": 1, "timesteps": [5], "sigmas": [1.0]},
    "sigmas: values must descend, got 1 then 2": {"n": 1, "sigmas": [1.0, 2.0]},
    "sigmas: expected a list of numbers, got 3.0": {"n": 1, "sigmas": 3.0},
    "sigmas: the last one is 0": {"n": 1, "sigmas": [1.0, 0.0]},
    "timesteps: expected a list of numbers, got 'ab'": {"n": 1, "timesteps": "ab"},
    "mask needs image=": {"n": 1, "mask": torch.ones(1, 1, 3, 5)},
    "strength needs image=": {"n": 1, "strength": 0.5},
    r"image: expected \(n, 1, 3, 5\), got \(1, 3, 5\)": {"image": IMAGE[0]},
    "image: expected a tensor, got str": {"image": "cat.png"},
    r"image: expected floating .* got torch.uint8; .* image / 127.5 - 1": {
        "image": (IMAGE * 255).byte()
    },
    "latents: expected floating .* got torch.int64": {"latents": IMAGE.long()},
    "image: expected finite numbers": {"image": IMAGE / 0},
    "image has 2, n has 3": {"n": 3, "image": IMAGE.expand(2, -1, -1, -1)},
    r"mask: expected \(n, 1, 3, 5\), got \(1, 1, 3, 4\)": {
        "image": IMAGE,
        "mask": torch.ones(1, 1, 3, 4),
    },
    "mask: expected values from 0 .keep. to 1": {"image": IMAGE, "mask": IMAGE - 2},
    "mask has 3, n has 2": {"n": 2, "image": IMAGE, "mask": torch.ones(3, 1, 3, 5)},
    "strength must be a number from 0 to 1, got 1.5": {"image": IMAGE, "strength": 1.5},
    "0.1 of 5 steps is less than one step; give more than 1/5": {
        "image": IMAGE,
        "strength": 0.1,
        "steps": 5,
    },
    "steps must be a whole number .* got 0": {"image": IMAGE, "steps": 0},
    r"guidance_interval: expected .* 0 <= low < high, got \(2, 2\)": {
        "n": 1,
        "guidance_interval": (2.0, 2.0),
    },
    "guidance_interval: expected a pair .low, high., got 2.0": {
        "n": 1,
        "guidance_interval": 2.0,
    },
    "guidance_rescale must be a number from 0 to 1, got -0.1": {"n": 1, "guidance_rescale": -0.1},
    "negative names 'prompt'; this model's conditioning: class_labels": {
        "n": 1,
        "negative": {"prompt": "ugly"},
    },
    "negative: expected a mapping .* got str": {"n": 1, "negative": "ugly"},
    "labels from 0 to 3, got 9": {"n": 1, "negative": {"class_labels": 9}},
    "negative class_labels has 3, n has 2": {"n": 2, "negative": {"class_labels": [0, 1, 2]}},
}


@pytest.mark.parametrize("message", BAD_CALLS)
def test_wrong_arguments_are_refused_with_a_reason(sampler, message):
    with pytest.raises(errors.InvalidArgument, match=message) as caught:
        sampler.sample(**BAD_CALLS[message])
    assert isinstance(caught.value, ValueError)


def test_guidance_needs_a_null_value():
    network = row_by_row_network()
    labels = {"class_labels": Conditioning(num_classes=4)}
    sampler = eager_sampler(Network(network.module, (1, 3, 5), labels))
    with pytest.raises(errors.InvalidArgument, match="null_class="):
        sampler.sample(class_labels=[1], guidance_scale=2.0)
    with pytest.raises(errors.InvalidArgument, match="needs class_labels="):
        sampler.sample(2)
    guided = {"class_labels": [1], "guidance_scale": 2.0, "steps": 2, "seed": 0}
    contrast = sampler.sample(**guided, negative={"class_labels": 3})
    assert not torch.equal(contrast, sampler.sample(**guided, negative={"class_labels": 0}))


def test_scalars_of_numpy_and_torch_are_taken_like_python_numbers(sampler):
    image = torch.zeros(1, 1, 3, 5)
    plain = {"eta": 0.5, "guidance_scale": 2.0, "guidance_rescale": 0.5, "strength": 0.75}
    expected = sampler.sample(2, steps=4, seed=7, class_labels=1, image=image, **plain)
    for whole, number in ((np.int64, np.float32), (torch.tensor, torch.tensor)):
        options = {name: number(value) for name, value in plain.items()}
        got = sampler.sample(
            whole(2), steps=whole(4), seed=whole(7), class_labels=whole(1), image=image, **options
        )
        assert torch.equal(got, expected)
        levels = [number(9.0), number(1.0)]
        expected_levels = sampler.sample(1, sigmas=[9.0, 1.0], seed=0)
        assert torch.equal(sampler.sample(1, sigmas=levels, seed=0), expected_levels)
    scales = torch.tensor([2.0, 2.0], dtype=torch.bfloat16, requires_grad=True)
    each = sampler.sample(seed=[1, 1], steps=2, class_labels=1, guidance_scale=scales)
    assert torch.equal(each[0], each[1])


def test_no_images_are_asked_for_by_empty_lists_too(sampler):
    for call in ({"n": 0}, {"class_labels": []}, {"seed": []}):
        assert sampler.sample(steps=2, **call).shape == (0, 1, 3, 5)


def test_a_mask_may_be_of_whole_numbers(sampler):
    mask = torch.tensor([0, 1, 0, 1, 1]).expand(1, 1, 3, 5)
    expected = sampler.sample(image=IMAGE, mask=mask.float(), steps=2, seed=0)
    for kind in (torch.uint8, torch.bool):
        assert torch.equal(
            sampler.sample(image=IMAGE, mask=mask.to(kind), steps=2, seed=0), expected
        )


def test_solver_objects_and_numpy_arguments_are_accepted(sampler):
    solver = get_solver("dpmpp_2m", solver_type="heun")
    image = sampler.sample(
        solver=solver, steps=4, seed=np.array([3, 4]), class_labels=np.array([1, 2])
    )
    assert image.shape == (2, 1, 3, 5)
    assert not torch.equal(
        image, sampler.sample(solver="dpmpp_2m", steps=4, seed=[3, 4], class_labels=[1, 2])
    )


def test_schedule_decides_what_the_solver_does():
    clipped = eager_sampler(row_by_row_network(), Schedule(clip_sample=True))
    free = eager_sampler(row_by_row_network(), Schedule(clip_sample=False))
    a, b = (s.sample(4, steps=5, seed=0, callback=None) for s in (clipped, free))
    assert a.abs().max() <= 1 < b.abs().max()
