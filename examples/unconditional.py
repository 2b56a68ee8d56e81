"""Sample without a condition, and see that the solver's steps buy detail, not another image.

One row of the picture for each number of steps, all from the same noise:

    python examples/unconditional.py --steps 4 8 16 64 --png unconditional.png
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
    parser.add_argument("--model", default="digits", help="a name, or the folder of a denoiser")
    parser.add_argument("--solver", default="dpmpp_2m", help="see fastdiff.list_solvers()")
    parser.add_argument("--steps", type=int, nargs="+", default=[3, 5, 10, 50], help="one row each")
    parser.add_argument("--count", type=int, default=10, help="images in a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--png", type=Path, default=Path("unconditional.png"))
    options = parser.parse_args(argv)

    sampler = fastdiff.compile(options.model)
    print(sampler.report)
    # The digits model is conditional; its label is left out, which stands for any digit.
    rows = [
        sampler.sample(options.count, solver=options.solver, steps=steps, seed=options.seed)
        for steps in options.steps
    ]
    for steps, images in zip(options.steps, rows, strict=True):
        change = (images - rows[-1]).abs().mean()
        print(f"{steps:4d} steps: {change:.4f} from the last row, in mean, of a range of 2")
    grid(torch.cat(rows), columns=options.count).save(options.png)
    print(f"wrote {options.png}")


if __name__ == "__main__":
    main()
