"""Sample digits by their labels, with more and more classifier-free guidance (arXiv 2207.12598).

One row of the picture for each guidance scale, all from the same noise: 0 ignores the label, 1
follows the model, more than 1 exaggerates the label at the price of variety.

    python examples/class_guided.py --scales 0 1 2 4 --png class_guided.png
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import fastdiff
from fastdiff.cli.media import grid


def main(argv: Sequence[str] | None = None) -> None:
    """Run the example with command line arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--labels", type=int, nargs="+", default=list(range(10)))
    parser.add_argument(
        "--scales", type=float, nargs="+", default=[0, 1, 2, 4], help="one row each"
    )
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", type=Path, default=Path("class_guided.png"))
    options = parser.parse_args(argv)

    sampler = fastdiff.compile("digits")
    columns = len(options.labels)
    # Guidance is a number per image, so all scales share one batch; so is the seed, which is what
    # gives a column its noise.
    images = sampler.sample(
        class_labels=options.labels * len(options.scales),
        guidance_scale=[scale for scale in options.scales for _ in range(columns)],
        seed=[options.seed + column for column in range(columns)] * len(options.scales),
        steps=options.steps,
    )
    grid(images, columns).save(options.png)
    print(f"wrote {options.png}")


if __name__ == "__main__":
    main()
