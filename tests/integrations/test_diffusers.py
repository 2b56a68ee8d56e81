"""Models of diffusers: described, evaluated and sampled as diffusers itself does."""

import pytest
import torch
from diffusers import AutoencoderKL, DDIMPipeline, DDIMScheduler, DDPMScheduler
from diffusers.schedulers import scheduling_ddpm
from diffusers_models import dit, unet2d, unet2d_condition

import fastdiff
from fastdiff import errors
from fastdiff.integrations import from_diffusers
from fastdiff.kernels.noise import TAG_STEP
from fastdiff.kernels.noise.reference import normal

pytestmark = pytest.mark.peer

QUICK = {"backend": "eager", "precision": "float32", "max_batch": 2, "tune": 0.01, "cache": False}


def latents(n, *shape):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(4))


def pipeline_images(pipeline, z, **options):
    """Run a diffusers pipeline from the latents z, in [-1, 1]."""
    module = __import__(type(pipeline).__module__, fromlist=["randn_tensor"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda *args, **kwargs: z.clone())
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(batch_size=len(z), output_type="np", **options).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


def scheduler_loop(scheduler, predict, z, steps):
    """Sample as every pipeline of diffusers does."""
    scheduler.set_timesteps(steps)
    x = z.clone()
    with torch.inference_mode():
        for t in scheduler.timesteps:
            x = scheduler.step(predict(x, t.expand(len(x))), t, x).prev_sample
    return x


def guided(model, scale, x, t, given, null):
    """Guide the prediction alone; a learned variance is that of the conditional branch."""
    conditional = model(x, t, **given, return_dict=False)[0]
    unconditional = model(x, t, **null, return_dict=False)[0]
    channels = x.shape[1]
    m_c, m_u = conditional[:, :channels], unconditional[:, :channels]
    return torch.cat([m_u + scale * (m_c - m_u), conditional[:, channels:]], 1)


@pytest.mark.parametrize(("backend", "atol"), [("eager", 1e-4), ("onnxruntime", 5e-4)])
def test_unet2d_gives_the_pipeline_image(backend, atol):
    model, scheduler = unet2d(), DDIMScheduler()
    sampler = fastdiff.compile(model, schedule=scheduler.config, **{**QUICK, "backend": backend})
    z = latents(2, 1, 8, 8)
    expected = pipeline_images(DDIMPipeline(model, scheduler), z, num_inference_steps=7)
    got = sampler.sample(latents=z, steps=7, compat="diffusers").clamp(-1, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=atol)


def test_unet2d_takes_labels_and_the_null_class_that_the_caller_names():
    model, scheduler = unet2d(num_class_embeds=6), DDIMScheduler()
    sampler = fastdiff.compile(model, schedule=scheduler.config, null_class=5, **QUICK)
    z, labels = latents(2, 1, 8, 8), torch.tensor([0, 4])
    inputs = {"class_labels": labels}, {"class_labels": torch.tensor([5, 5])}
    expected = scheduler_loop(scheduler, lambda x, t: guided(model, 2.0, x, t, *inputs), z, 3)
    got = sampler.sample(
        class_labels=labels, latents=z, steps=3, guidance_scale=2.0, compat="diffusers"
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)
    with pytest.raises(errors.InvalidArgument, match="from 0 to 5, got 6"):
        sampler.sample(class_labels=[6])


def test_unet2d_condition_takes_text_of_any_length():
    model, scheduler = unet2d_condition(), DDIMScheduler(beta_schedule="scaled_linear")
    assert from_diffusers(model).conditioning["encoder_hidden_states"].shape == (77, 12)
    text, empty = latents(3, 5, 12), torch.linspace(-1, 1, 60).reshape(5, 12)
    spec = fastdiff.Conditioning((5, 12), torch.float32, null=empty)
    sampler = fastdiff.compile(
        model,
        schedule=scheduler.config,
        conditioning={"encoder_hidden_states": spec},
        **QUICK,
    )
    inputs = ({"encoder_hidden_states": e} for e in (text, empty.expand(3, 5, 12)))
    given, null = inputs
    z = latents(3, 2, 8, 8)
    expected = scheduler_loop(scheduler, lambda x, t: guided(model, 3.0, x, t, given, null), z, 4)
    got = sampler.sample(
        encoder_hidden_states=text, latents=z, steps=4, guidance_scale=3.0, compat="diffusers"
    )
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("solver", ["ddim", "ddpm"])
def test_dit_is_guided_in_its_prediction_and_not_in_its_variance(solver, monkeypatch):
    model, seeds = dit(), [7, 8]
    config = {"variance_type": "learned_range", "clip_sample": True}
    if solver == "ddpm":
        scheduler = DDPMScheduler(**config)
        predict = lambda x, t: guided(model, 4.0, x, t, *inputs)
    else:
        scheduler = DDIMScheduler()
        predict = lambda x, t: guided(model, 4.0, x, t, *inputs)[:, :2]
    labels = torch.tensor([1, 4])
    inputs = {"class_labels": labels}, {"class_labels": torch.tensor([5, 5])}
    draws = iter(range(6))

    def noise(*args, **kwargs):
        draw = next(draws)
        rows = [normal(seed, 0, draw, TAG_STEP, 0, 72).reshape(2, 6, 6) for seed in seeds]
        return torch.stack([torch.from_numpy(row).float() for row in rows])

    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", noise)
    z = latents(2, 2, 6, 6)
    expected = scheduler_loop(scheduler, predict, z, 6)
    sampler = fastdiff.compile(model, schedule=config, **QUICK)
    assert sampler.network.probe() == 4
    got = sampler.sample(
        class_labels=labels, latents=z, seed=seeds, solver=solver, steps=6, guidance_scale=4.0,
        compat="diffusers",
    )  # fmt: skip
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("build", [unet2d, unet2d_condition, dit])
def test_description_calls_the_model_as_diffusers_does(build):
    model = build()
    network = from_diffusers(model)
    x, t, conditioning = network.example(3)
    with torch.inference_mode():
        got = network.module(x, t, **conditioning)
        expected = model(x, timestep=t, **conditioning).sample
    assert torch.equal(got, expected)
    assert got.shape[1] == network.probe()


def test_config_decides_the_inputs():
    labels = from_diffusers(dit()).conditioning["class_labels"]
    assert (labels.num_classes, labels.null) == (5, 5)
    both = from_diffusers(unet2d_condition(num_class_embeds=4)).conditioning
    assert list(both) == ["encoder_hidden_states", "class_labels"]
    assert (both["class_labels"].num_classes, both["class_labels"].null) == (4, None)
    assert from_diffusers(unet2d(sample_size=None), (1, 16, 24)).sample_shape == (1, 16, 24)
    assert from_diffusers(unet2d(sample_size=(8, 16))).sample_shape == (1, 8, 16)
    assert from_diffusers(torch.nn.Identity()) is None


def test_sdxl_takes_pooled_text_and_sizes_and_lcm_a_guidance_embedding():
    model = unet2d_condition(
        addition_embed_type="text_time",
        addition_time_embed_dim=4,
        projection_class_embeddings_input_dim=34,
        time_cond_proj_dim=6,
    )
    network = from_diffusers(model)
    inputs = network.conditioning
    assert (inputs["text_embeds"].shape, inputs["timestep_cond"].shape) == ((10,), (6,))
    assert inputs["time_ids"].null.tolist() == [64, 64, 0, 0, 64, 64]
    x, t, given = network.example(2)
    with torch.inference_mode():
        expected = model(
            x,
            t,
            given["encoder_hidden_states"],
            timestep_cond=given["timestep_cond"],
            added_cond_kwargs={"text_embeds": given["text_embeds"], "time_ids": given["time_ids"]},
        ).sample
        assert torch.equal(network.module(x, t, **given), expected)


def test_what_is_not_supported_is_refused_by_name():
    with pytest.raises(errors.UnknownName, match=r"wrap it .* 'AutoencoderKL'; known: AuraFlow"):
        fastdiff.compile(AutoencoderKL())
    with pytest.raises(errors.InvalidArgument, match="no sample_size; pass sample_shape="):
        from_diffusers(unet2d(sample_size=None))
    with pytest.raises(errors.InvalidArgument, match="class_embed_type='timestep' takes inputs"):
        from_diffusers(unet2d(class_embed_type="timestep"))
    with pytest.raises(errors.InvalidArgument, match="addition_embed_type='text' takes inputs"):
        from_diffusers(unet2d_condition(addition_embed_type="text"))
    with pytest.raises(errors.InvalidArgument, match="takes 5 channels and predicts 2"):
        from_diffusers(unet2d_condition(in_channels=5))
    with pytest.raises(errors.InvalidArgument, match=r"\(12, 16\): expected one width"):
        from_diffusers(unet2d_condition(cross_attention_dim=(12, 16)))
