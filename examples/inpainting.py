"""Keep one half of each digit and have the model paint the other, in several ways.

The first row of the picture has the digits, the second what is kept of them, and each further row
another seed. Any model paints what a mask leaves open: after every step the known part is put back
with the noise of that step's level (as diffusers' inpainting does).

    python examples/inpainting.py --rows 3 --png inpainting.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

import fastdiff
from fastdiff.cli.media import grid


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example with command line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--labels", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--rows", type=int, default=3, help="ways to paint")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", type=Path, default=Path("inpainting.png"))
    options = parser.parse_args(argv)

    sampler = fastdiff.compile("digits")
    digits = sampler.sample(class_labels=options.labels, seed=options.seed, guidance_scale=1.5)
    mask = torch.zeros(1, *digits.shape[1:])
    mask[..., digits.shape[2] // 2 :, :] = 1  # paint the lower half anew

    painted = [
        sampler.sample(
            class_labels=options.labels,
            image=digits,
            mask=mask,
            steps=options.steps,
            seed=options.seed + row,
        )
        for row in range(1, options.rows + 1)
    ]
    kept = torch.where(mask == 0, digits, -0.5)  # dark grey
    grid(torch.cat([digits, kept, *painted]), columns=len(digits)).save(options.png)
    print(f"wrote {options.png}")


if __name__ == "__main__":
    main()
