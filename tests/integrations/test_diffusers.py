import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, UNet2DModel

import fastdiff
from fastdiff import errors

pytestmark = pytest.mark.peer


def small_unet(**config):
    torch.manual_seed(0)
    return UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        **config,
    ).eval()


def pipeline_images(pipeline, z, **options):
    """Run a diffusers pipeline from the latents z, in [-1, 1]."""
    module = __import__(type(pipeline).__module__, fromlist=["randn_tensor"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "randn_tensor", lambda *args, **kwargs: z.clone())
        pipeline.set_progress_bar_config(disable=True)
        images = pipeline(batch_size=len(z), output_type="np", **options).images
    return torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1


@pytest.mark.parametrize("backend", ["eager", "onnxruntime"])
def test_unet2d_gives_the_pipeline_image(backend):
    model, scheduler = small_unet(), DDIMScheduler()
    sampler = fastdiff.compile(
        model, schedule=scheduler.config, backend=backend, precision="float32"
    )
    z = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(4))
    expected = pipeline_images(DDIMPipeline(model, scheduler), z, num_inference_steps=7)
    got = sampler.sample(latents=z, steps=7, compat="diffusers").clamp(-1, 1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-3)


def test_folder_on_disk_gives_the_same_sampler(tmp_path):
    model = small_unet()
    DDPMPipeline(model, DDPMScheduler(beta_schedule="squaredcos_cap_v2")).save_pretrained(tmp_path)
    options = {"backend": "eager", "precision": "float32", "max_batch": 2}
    sampler = fastdiff.compile(tmp_path, **options)
    assert sampler.schedule.beta_schedule == "squaredcos_cap_v2"
    direct = fastdiff.compile(model, schedule=sampler.schedule, **options)
    images = [s.sample(2, solver="ddpm", steps=5, seed=3) for s in (sampler, direct)]
    assert torch.equal(*images)


def test_class_conditional_unet_takes_labels():
    sampler = fastdiff.compile(small_unet(num_class_embeds=6), null_class=5, backend="eager")
    images = sampler.sample(class_labels=[0, 4], steps=3, seed=[1, 1], guidance_scale=2.0)
    assert not torch.equal(images[0], images[1])
    with pytest.raises(errors.InvalidArgument, match="from 0 to 5, got 6"):
        sampler.sample(class_labels=[6])


def test_other_classes_and_pickled_weights_are_refused(tmp_path):
    from diffusers import AutoencoderKL

    with pytest.raises(errors.UnknownName, match=r"class 'AutoencoderKL'; known: DiTTransformer2D"):
        fastdiff.compile(AutoencoderKL())
    with pytest.raises(errors.InvalidArgument, match=r"no config.json"):
        fastdiff.compile(tmp_path)
    model = small_unet()
    model.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(errors.WeightsError, match="cannot be loaded"):
        fastdiff.compile(tmp_path)
