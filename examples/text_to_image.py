"""Draw what a prompt says, with a Stable Diffusion pipeline from a folder.

The folder is what `save_pretrained` of diffusers' StableDiffusionPipeline writes, and what
repositories such as stable-diffusion-v1-5 hold, with safetensors; nothing is downloaded.

    python examples/text_to_image.py stable-diffusion-v1-5 "a lighthouse in a storm, oil painting"
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import UniPCMultistepScheduler
from diffusers.utils import make_image_grid

import fastdiff


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example with command line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a StableDiffusionPipeline")
    parser.add_argument("prompt")
    parser.add_argument("--negative", help="what should not be in the image")
    parser.add_argument("--guidance", type=float, default=7.5)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", type=Path, default=Path("text_to_image.png"))
    options = parser.parse_args(argv)

    pipe = fastdiff.compile(options.folder, progress=True)
    print(pipe.report)
    # A multistep solver needs a third of the steps of the scheduler that comes with the weights.
    pipe.scheduler = UniPCMultistepScheduler.from_config(pipe.scheduler.config)
    begin = time.perf_counter()
    images = pipe(
        options.prompt,
        negative_prompt=options.negative,
        guidance_scale=options.guidance,
        num_images_per_prompt=options.count,
        num_inference_steps=options.steps,
        generator=torch.Generator().manual_seed(options.seed),
    ).images
    print(f"{len(images)} images in {time.perf_counter() - begin:.1f} s")
    make_image_grid(images, rows=1, cols=len(images)).save(options.png)
    print(f"wrote {options.png}")


if __name__ == "__main__":
    main()
