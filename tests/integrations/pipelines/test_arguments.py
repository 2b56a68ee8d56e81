"""What a compiled pipeline refuses, and whom it tells of its steps."""

import numpy as np
import pipelines
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionImg2ImgPipeline,
)
from diffusers.callbacks import SDCFGCutoffCallback

import fastdiff
from fastdiff import errors
from fastdiff.engine.requests import StepInfo
from fastdiff.integrations.pipelines.loop import StepStates
from fastdiff.networks import Conditioning
from fastdiff.sampling import Schedule

pytestmark = [
    pytest.mark.peer,
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),  # diffusers
]

QUICK = {"backend": "eager", "precision": "float32", "max_batch": 2, "tune": 0.01, "cache": False}
TEXT = {"prompt": "a cat", "num_inference_steps": 3, "output_type": "pt"}


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("text_to_image", {"ip_adapter_image": [1]}, "ip_adapter_image= is not supported"),
        ("text_to_image", {"cross_attention_kwargs": {"scale": 0.5}}, "cross_attention_kwargs="),
        ("text_to_image", {"callback": print, "callback_steps": 1}, "callback= is not supported"),
        ("text_to_image", {"output_type": "jpeg"}, "output_type: expected 'pil', 'np', 'pt', 'lat"),
        ("class_conditional", {"output_type": "latent"}, "output_type: expected 'pil', 'np', 'pt'"),
        ("ldm", {"output_type": "pt"}, "output_type: expected 'pil', 'np', got 'pt'"),
        ("ldm", {"seed": 4}, "seed= is not supported"),
        ("text_to_image", {"height": 128}, "height: expected 64, for which .* got 128"),
        ("text_to_image", {"width": 128}, "width: expected 64, for which .* got 128"),
        ("text_to_image", {"eta": 0.5}, "solver 'pndm' has no option 'eta'"),
        (
            "text_to_image",
            {"callback_on_step_end": SDCFGCutoffCallback(0.5, None)},
            "it changed prompt_embeds, _guidance_scale",
        ),
        ("text_to_image", {"guidance_rescale": 1.5}, "guidance_rescale"),
        ("text_to_image", {"generator": 5}, "generator: expected a torch.Generator, .* got int"),
        ("class_conditional", {"class_labels": [1000]}, "class_labels: expected labels from 0"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(compiled, name, arguments, words):
    _, fast = compiled(name)
    given = {
        "text_to_image": {"prompt": "a cat"},
        "class_conditional": {"class_labels": [3]},
        "ldm": {},
    }[name]
    with pytest.raises(errors.InvalidArgument, match=words):
        fast(**{"num_inference_steps": 2, **given, **arguments})


def test_an_image_has_the_same_bits_in_company_if_asked_to():
    pipe = fastdiff.compile(pipelines.ddim(), batch_invariant=True, **QUICK)
    pipe.set_progress_bar_config(disable=True)
    seeded = [torch.Generator().manual_seed(seed) for seed in (1, 2, 3)]
    asked = {"num_inference_steps": 2, "output_type": "np"}
    together = pipe(batch_size=3, generator=seeded, **asked).images
    alone = pipe(generator=[torch.Generator().manual_seed(2)], **asked).images
    assert (together[1] == alone[0]).all()


def test_levels_that_do_not_end_with_the_data_are_refused(compiled):
    _, fast = compiled("text_to_image")
    fast.scheduler = EulerDiscreteScheduler()
    with pytest.raises(errors.InvalidArgument, match=r"sigmas: expected 0, .* got 0.5"):
        fast(prompt="a cat", sigmas=[9.0, 2.0, 0.5])


def test_messages_of_the_pipeline_name_the_scheduler_that_was_set(compiled):
    _, fast = compiled("text_to_image")
    fast.scheduler = DDIMScheduler()
    with pytest.raises(ValueError, match=r"DDIMScheduler'>'s `set_timesteps` does not") as caught:
        fast(prompt="a cat", sigmas=[9.0, 2.0])
    assert "Loop" not in str(caught.value)


def test_prompt_embeddings_of_two_windows_are_compiled_for():
    pipe = pipelines.text_to_image()
    shape = (2 * pipelines.TOKENS, pipelines.WIDTH)
    longer = {"encoder_hidden_states": Conditioning(shape, torch.float32)}
    fast = fastdiff.compile(pipe, conditioning=longer, **QUICK)
    embeds = torch.randn(2, 1, *shape, generator=torch.Generator().manual_seed(3))
    given = {"prompt_embeds": embeds[0], "negative_prompt_embeds": embeds[1]}
    asked = {"num_inference_steps": 3, "output_type": "latent", **given}
    images = []
    for made in (pipe, fast):
        made.set_progress_bar_config(disable=True)
        images.append(made(generator=torch.Generator().manual_seed(1), **asked).images)
    torch.testing.assert_close(images[1], images[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(
        errors.InvalidShape, match=r"expected shape \(n, 32, 12\), got \(1, 16, 12\)"
    ):
        fast(**TEXT)


def test_what_a_pipeline_tells_itself_is_refused_at_compile_time(compiled):
    pipe, _ = compiled("ddim")
    with pytest.raises(errors.InvalidArgument, match="schedule= is for a denoiser"):
        fastdiff.compile(pipe, schedule=DDIMScheduler(), sample_shape=(3, 8, 8), **QUICK)
    with pytest.raises(errors.InvalidArgument, match="has no input 'text'; it has: none"):
        fastdiff.compile(pipe, conditioning={"text": Conditioning()}, **QUICK)


def test_picture_of_another_size_is_refused(compiled, picture):
    _, fast = compiled("image_to_image")
    with pytest.raises(errors.InvalidShape, match=r"image: expected \(n, 4, 8, 8\), .* 4, 4, 4"):
        fast(prompt="a cat", image=picture.resize((32, 32)), num_inference_steps=3)


def test_errors_of_the_pipeline_itself_are_raised(compiled):
    _, fast = compiled("text_to_image")
    with pytest.raises(ValueError, match="Provide either `prompt` or `prompt_embeds`"):
        fast()
    with pytest.raises(TypeError, match="unexpected keyword argument 'prompt'"):
        compiled("ddim")[1](prompt="a cat")


def test_only_the_scheduler_can_be_set(compiled):
    _, fast = compiled("text_to_image")
    with pytest.raises(errors.InvalidArgument, match=r"unet cannot be set: .* update_weights\(\)"):
        fast.unet = None
    with pytest.raises(errors.InvalidArgument, match=r"load_lora_weights\(\) would not reach"):
        fast.load_lora_weights("somewhere")
    before = fast.scheduler
    with pytest.raises(errors.UnknownName, match="scheduler class 'LMSDiscreteScheduler'; known"):
        fast.scheduler = LMSDiscreteScheduler()
    assert fast.scheduler is before


def test_eta_is_that_of_ddim(compiled):
    _, fast = compiled("ddim")
    arguments = {"num_inference_steps": 4, "output_type": "np"}
    seed = lambda: torch.Generator().manual_seed(3)
    plain, noisy, again = (
        fast(generator=seed(), eta=eta, **arguments).images for eta in (0.0, 1.0, 1.0)
    )
    assert (noisy == again).all()
    assert abs(noisy - plain).max() > 0.05


def test_callback_is_told_of_every_step(compiled):
    pipe, fast = compiled("text_to_image")
    told = {pipe: [], fast: []}
    for made, seen in told.items():
        note = lambda _, step, t, tensors, seen=seen: seen.append((step, float(t))) or tensors
        made(callback_on_step_end=note, callback_on_step_end_tensor_inputs=[], **TEXT)
    assert told[fast] == told[pipe]
    assert len(told[fast]) == 4  # PNDM evaluates its second time twice


@pytest.mark.parametrize("name", ["text_to_image", "inpainting"])
def test_callback_sees_the_latents_of_every_step(compiled, picture, region, name):
    given = {"image": picture, "mask_image": region} if name == "inpainting" else {}
    seen = []
    for made in compiled(name):
        latents = []
        note = lambda _, step, t, tensors, latents=latents: latents.append(tensors["latents"]) or {}
        made(callback_on_step_end=note, generator=seeded(2), **given, **TEXT)
        seen.append(torch.stack(latents))
    expected, got = seen
    assert (expected[1:] - expected[:-1]).abs().amax((1, 2, 3, 4)).min() > 0.005
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


def test_interrupted_call_returns_what_the_pipeline_returns(compiled):
    def interrupt(pipe, step, t, tensors):
        pipe._interrupt = step == 1
        return tensors

    pipe, fast = compiled("text_to_image")
    expected, got = (
        made(callback_on_step_end=interrupt, generator=seeded(2), **TEXT).images
        for made in (pipe, fast)
    )
    whole = fast(generator=seeded(2), **TEXT).images  # and nothing is left running
    assert (got - whole).abs().max() > 0.01
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


def test_callback_that_steers_is_refused(compiled):
    _, fast = compiled("text_to_image")

    def guide(pipe, step, t, tensors):
        pipe._guidance_scale = 1.0
        return tensors

    def replace(pipe, step, t, tensors):
        return {"latents": tensors["latents"] * 1.5}

    def overwrite(pipe, step, t, tensors):
        tensors["latents"].zero_()

    def prompt(pipe, step, t, tensors):
        return {"prompt_embeds": torch.zeros(1)}

    for callback, changed in (
        (guide, "_guidance_scale"),
        (replace, "latents"),
        (overwrite, "latents"),
        (prompt, "prompt_embeds"),
    ):
        with pytest.raises(errors.InvalidArgument, match=f"it changed {changed}"):
            fast(callback_on_step_end=callback, **TEXT)


def test_states_of_images_that_are_late_wait_for_them():
    """The images of a request that is larger than the engine take their steps in turn."""
    states = StepStates(2)
    for step, image in ((1, 1), (2, 1), (1, 0), (2, 0)):
        x = torch.full((1, 4, 1, 1), 10.0 * step + image)
        states.note(StepInfo(step, 2, np.array([image]), x, lambda x=x: x))
        assert states.complete == (0 if image else step)
    assert states.pop(1).flatten(1).tolist() == [[10.0] * 4, [11.0] * 4]
    assert states.pop(2).flatten(1).tolist() == [[20.0] * 4, [21.0] * 4]


@pytest.mark.parametrize("name", ["image_to_image", "inpainting"])
@pytest.mark.parametrize("scheduler", [DDIMScheduler, EulerDiscreteScheduler, PNDMScheduler])
def test_strength_that_leaves_no_step_is_refused(compiled, picture, region, name, scheduler):
    _, fast = compiled(name)
    fast.scheduler = scheduler.from_config(fast.scheduler.config)
    given = {"mask_image": region} if name == "inpainting" else {}
    with pytest.raises(
        errors.InvalidArgument, match=r"strength: 0\.19 of 5 steps is less than one"
    ):
        fast(prompt="a cat", image=picture, strength=0.19, num_inference_steps=5, **given)


def test_errors_of_the_pipeline_name_the_scheduler(compiled):
    _, fast = compiled("text_to_image")
    with pytest.raises(ValueError, match=r"class 'diffusers.*PNDMScheduler'>'s `set_timesteps`"):
        fast(prompt="a cat", timesteps=[900, 500, 77])


def test_times_of_which_diffusers_leaves_out_evaluations_are_refused(compiled, picture):
    _, fast = compiled("image_to_image")
    fast.scheduler = HeunDiscreteScheduler.from_config(fast.scheduler.config)
    with pytest.raises(errors.InvalidArgument, match=r"evaluations of HeunDiscreteScheduler as st"):
        fast(prompt="a cat", image=picture, timesteps=[900, 600, 300, 77], strength=0.8)


@pytest.mark.parametrize("name", ["class_conditional", "ddpm"])
def test_loop_that_scales_what_it_should_not_is_mended_with_a_warning(compiled, name):
    """DiTPipeline steps the scaled input, DDPMPipeline scales nothing; neither scales its noise."""
    _, fast = compiled(name)
    fast.scheduler = EulerDiscreteScheduler.from_config(fast.scheduler.config)
    given = {"class_labels": [3], "guidance_scale": 1.0} if name == "class_conditional" else {}
    with pytest.warns(errors.DeviationWarning, match=r"EulerDiscreteScheduler .*solver='euler'"):
        got = fast(generator=seeded(5), num_inference_steps=3, output_type="pt", **given).images
    sampler = fast.sampler.with_schedule(Schedule.from_config(fast.scheduler.config))
    latents = torch.randn(1, *fast.sampler.network.sample_shape, generator=seeded(5))
    labels = {"class_labels": [3]} if given else {}
    asked = {"solver": "euler", "steps": 3, "compat": "diffusers", "latents": latents, **labels}
    x = sampler.sample(**asked)
    if given:
        x = fast.vae.decode(x / fast.vae.config.scaling_factor).sample
    torch.testing.assert_close(torch.as_tensor(got), (x / 2 + 0.5).clamp(0, 1), rtol=0, atol=1e-5)


def test_pipeline_made_of_a_compiled_one_is_refused(compiled):
    _, fast = compiled("text_to_image")
    for make in (
        lambda: StableDiffusionImg2ImgPipeline.from_pipe(fast),
        lambda: StableDiffusionImg2ImgPipeline(**fast.components),
    ):
        with pytest.raises(errors.InvalidArgument, match=r"not be compiled; .*from_pipe\(pipe.pip"):
            make()
    assert StableDiffusionImg2ImgPipeline.from_pipe(fast.pipeline).unet is fast.unet


def test_call_leaves_the_scheduler_as_it_was(compiled):
    """Calls may overlap, so each sets the times of a copy."""
    _, fast = compiled("text_to_image")
    fast.scheduler = scheduler = DDIMScheduler()
    fast(**TEXT)
    assert scheduler.num_inference_steps is None


def test_compile_takes_pipelines(compiled):
    pipe, _ = compiled("ddim")
    fast = fastdiff.compile(pipe, **QUICK, sample_shape=(3, 8, 8))
    assert repr(fast) == "<CompiledPipeline DDIMPipeline: eager float32>"
    assert fast.sampler.schedule == fast.sampler.schedule.from_config(pipe.scheduler.config)
    assert fast.sampler.network.sample_shape == (3, 8, 8)
