"""Text transformers of diffusers: called as their pipelines call them."""

import diffusers
import pytest
import torch
from torch.nn.functional import mse_loss

import fastdiff
from fastdiff import errors
from fastdiff.integrations import from_diffusers

pytestmark = pytest.mark.peer

HEADS = {"attention_head_dim": 8, "num_attention_heads": 3}
SMALL = {"sample_size": 4, "patch_size": 2, "in_channels": 2}
JOINT = {"joint_attention_dim": 12, "caption_projection_dim": 24}
CONFIGS = {
    "SD3Transformer2DModel": {
        **SMALL, **HEADS, **JOINT, "num_layers": 2, "pooled_projection_dim": 10,
        "out_channels": 2, "pos_embed_max_size": 8,
    },
    "PixArtTransformer2DModel": {
        **SMALL, **HEADS, "num_layers": 1, "cross_attention_dim": 24, "out_channels": 4,
        "caption_channels": 12, "use_additional_conditions": True,
    },
    "SanaTransformer2DModel": {
        **SMALL, **HEADS, "patch_size": 1, "out_channels": 2, "num_layers": 1,
        "num_cross_attention_heads": 3, "cross_attention_head_dim": 8, "cross_attention_dim": 24,
        "caption_channels": 12, "timestep_scale": 0.5,
    },
    "AuraFlowTransformer2DModel": {
        **SMALL, **HEADS, **JOINT, "num_mmdit_layers": 1, "num_single_dit_layers": 1,
        "out_channels": 2, "pos_embed_max_size": 16,
    },
    "FluxTransformer2DModel": {
        "attention_head_dim": 16, "num_attention_heads": 2, "in_channels": 8, "num_layers": 1,
        "num_single_layers": 1, "joint_attention_dim": 12, "pooled_projection_dim": 10,
        "guidance_embeds": True, "axes_dims_rope": (4, 4, 8),
    },
}  # fmt: skip


def build(name, **config):
    torch.manual_seed(0)
    model = getattr(diffusers, name)(**{**CONFIGS[name], **config}).eval()
    for weight in model.parameters():
        if weight.ndim > 1:  # some begin at zero, where they hide their inputs
            torch.nn.init.normal_(weight, std=0.2)
    return model


@pytest.mark.parametrize("name", CONFIGS)
def test_weights_of_half_precision_are_computed_in_float32(name):
    """The text and the pooled text are float32, whatever the weights are."""
    network = from_diffusers(build(name).to(torch.bfloat16), (2, 4, 4))
    assert network.probe() in {2, 4}


def flux_pipeline_call(model, x, t, text, pooled, guidance):
    pipeline = diffusers.FluxPipeline
    n, channels, height, width = x.shape
    output = model(
        hidden_states=pipeline._pack_latents(x, n, channels, height, width),
        timestep=t / 1000,
        guidance=guidance,
        pooled_projections=pooled,
        encoder_hidden_states=text,
        txt_ids=torch.zeros(text.shape[1], 3),
        img_ids=pipeline._prepare_latent_image_ids(n, height // 2, width // 2, x.device, x.dtype),
    )
    return pipeline._unpack_latents(output.sample, 8 * height, 8 * width, 8)


def pixart_pipeline_call(model, x, t, text, mask, resolution, aspect):
    return model(
        x,
        encoder_hidden_states=text,
        encoder_attention_mask=mask,
        timestep=t,
        added_cond_kwargs={"resolution": resolution, "aspect_ratio": aspect},
    ).sample


PIPELINE_CALLS = {
    "SD3Transformer2DModel": lambda model, x, t, text, pooled: (
        model(
            hidden_states=x, timestep=t, encoder_hidden_states=text, pooled_projections=pooled
        ).sample
    ),
    "PixArtTransformer2DModel": pixart_pipeline_call,
    "SanaTransformer2DModel": lambda model, x, t, text, mask: (
        model(x, encoder_hidden_states=text, encoder_attention_mask=mask, timestep=t * 0.5).sample
    ),
    "AuraFlowTransformer2DModel": lambda model, x, t, text: (
        model(x, encoder_hidden_states=text, timestep=t / 1000).sample
    ),
    "FluxTransformer2DModel": flux_pipeline_call,
}


@pytest.mark.parametrize("name", CONFIGS)
def test_description_calls_the_model_as_its_pipeline_does(name):
    model = build(name)
    shape = (2, 4, 6) if name == "FluxTransformer2DModel" else None
    network = from_diffusers(model, shape)
    assert network.sample_shape == (shape or (2, 4, 4))
    assert network.probe() == (4 if name == "PixArtTransformer2DModel" else 2)
    x, t, inputs = network.example(2)
    inputs = {key: value.clone() for key, value in inputs.items()}
    if "encoder_attention_mask" in inputs:
        inputs["encoder_attention_mask"] = (inputs["encoder_attention_mask"] > 0).float()
    with torch.inference_mode():
        got = network.module(x, t, **inputs)
        expected = PIPELINE_CALLS[name](model, x, t, *inputs.values())
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        other = {key: value * 0.5 for key, value in inputs.items()}
        for changed in ((x * 0.5, t, inputs), (x, t * 0.5, inputs), (x, t, other)):
            again = network.module(changed[0], changed[1], **changed[2])
            assert mse_loss(again, got) > 1e-8, "an input does not matter"


def test_inputs_that_pipelines_fill_in_have_their_values():
    inputs = from_diffusers(build("PixArtTransformer2DModel"), (2, 6, 4)).conditioning
    assert inputs["resolution"].null.tolist() == [48.0, 32.0]
    assert inputs["aspect_ratio"].null == 1.5
    assert inputs["encoder_attention_mask"].null == 1.0
    flux = build("FluxTransformer2DModel")
    assert from_diffusers(flux, (2, 4, 4)).conditioning["guidance"].null == 3.5
    with pytest.raises(errors.InvalidArgument, match="no sample_size; pass sample_shape="):
        from_diffusers(flux)


def test_flow_transformer_samples_as_the_scheduler_loop():
    model, scheduler = build("SD3Transformer2DModel"), diffusers.FlowMatchEulerDiscreteScheduler()
    generator = torch.Generator().manual_seed(1)
    z, text, pooled = (
        torch.randn(2, *shape, generator=generator) for shape in ((2, 4, 4), (5, 12), (10,))
    )
    scheduler.set_timesteps(3)
    x = z.clone()
    with torch.inference_mode():
        for t in scheduler.timesteps:
            output = model(x, text, pooled, t.expand(2), return_dict=False)[0]
            x = scheduler.step(output, t, x).prev_sample
    sampler = fastdiff.compile(
        model,
        schedule={**scheduler.config, "_class_name": "FlowMatchEulerDiscreteScheduler"},
        conditioning={"encoder_hidden_states": fastdiff.Conditioning((5, 12), torch.float32)},
        backend="eager",
        precision="float32",
        tune=0.01,
        cache=False,
    )
    got = sampler.sample(
        encoder_hidden_states=text, pooled_projections=pooled, latents=z, solver="euler", steps=3,
        compat="diffusers",
    )  # fmt: skip
    torch.testing.assert_close(got, x, rtol=0, atol=1e-4)
