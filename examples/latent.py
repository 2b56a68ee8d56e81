"""Sample in the latent space of an autoencoder: a DiT by class, or a latent diffusion model.

The folder is what `save_pretrained` of diffusers' DiTPipeline or LDMPipeline writes, and what their
repositories hold. The compiled pipeline is called as the pipeline is; another scheduler is set
without compiling anew.

    python examples/latent.py DiT-XL-2-256 --labels 207 360 387 974 --png latent.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler
from diffusers.utils import make_image_grid

import fastdiff


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example with command line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="of a DiTPipeline or LDMPipeline")
    parser.add_argument("--labels", type=int, nargs="+", help="classes, for a DiT")
    parser.add_argument("--count", type=int, default=4, help="images, for latent diffusion")
    parser.add_argument("--guidance", type=float, default=4.0, help="for a DiT")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", type=Path, default=Path("latent.png"))
    options = parser.parse_args(argv)

    pipe = fastdiff.compile(options.folder)
    print(pipe.report)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    what: dict[str, Any] = {"batch_size": options.count}
    if options.labels:
        what = {"class_labels": options.labels, "guidance_scale": options.guidance}
    # A seed for each image, so that it is the same in any company.
    count = len(options.labels or range(options.count))
    generators = [torch.Generator().manual_seed(options.seed + i) for i in range(count)]
    images = pipe(num_inference_steps=options.steps, generator=generators, **what).images
    make_image_grid(images, rows=1, cols=count).save(options.png)
    print(f"wrote {options.png}")


if __name__ == "__main__":
    main()
