"""Judge the digits model: whether its images are the digits asked for, varied, and its own.

A support vector machine that only ever saw real digits names the generated ones, and distances to
real images tell copying from generating:

    python examples/evaluate_digits.py --png digits.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from sklearn.svm import SVC
from torch import Tensor
from train_digits import real_digits

import fastdiff
from fastdiff.models import (
    NULL_CLASS,
    NUM_CLASSES,
    SAMPLE_SHAPE,
    digits_schedule_config,
    load_digits,
)

SOLVERS = (("ddim", 50), ("dpmpp_2m", 15))


def pixels(images: Tensor) -> npt.NDArray[np.float64]:
    """Map (n, 1, 8, 8) in [-1, 1] to (n, 64) in the grey levels of the data set, 0 to 16."""
    return ((images.double() + 1.0) * 8.0).flatten(1).numpy()


def nearest(images: Tensor, others: Tensor) -> npt.NDArray[np.float64]:
    """Distance in grey levels from each image to the nearest of `others`, itself apart, (n,)."""
    a, b = torch.from_numpy(pixels(images)), torch.from_numpy(pixels(others))
    distances = torch.cdist(a, b)
    if images is others:
        distances.fill_diagonal_(torch.inf)
    return distances.amin(dim=1).numpy()


def spread(images: Tensor, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return the deviation inside each class, averaged over pixels, (10,) in grey levels."""
    grey = pixels(images)
    return np.stack([grey[labels == c].std(axis=0).mean() for c in range(NUM_CLASSES)])


def compile_digits(weights: Path | None) -> fastdiff.Sampler:
    """Compile the shipped model, or one that train_digits.py wrote."""
    if weights is None:
        return fastdiff.compile("digits")
    return fastdiff.compile(
        load_digits(weights),
        schedule=digits_schedule_config(weights),
        sample_shape=SAMPLE_SHAPE,
        num_classes=NUM_CLASSES,
        null_class=NULL_CLASS,
    )


def save_grid(images: Tensor, path: Path, rows: int = 10, scale: int = 8) -> None:
    """Save the first `rows` images of each class, a class per column, with a border of a pixel."""
    tiles = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)[: rows * NUM_CLASSES]
    side = tiles.shape[-1]
    grid = tiles.view(rows, NUM_CLASSES, side, side).permute(0, 2, 1, 3)
    bytes_ = (grid.reshape(rows * side, NUM_CLASSES * side) + 1.0).mul(127.5).round().byte()
    size = (NUM_CLASSES * side * scale, rows * side * scale)
    Image.fromarray(bytes_.numpy()).resize(size, Image.Resampling.NEAREST).save(path)


def evaluate(args: argparse.Namespace) -> None:
    """Sample with each solver, and print what the judge and the distances say."""
    train_images, train_labels, held_out_images, held_out_labels = real_digits()
    judge = SVC(gamma=0.001).fit(pixels(train_images), train_labels)
    labels = np.tile(np.arange(NUM_CLASSES), args.per_class)
    sampler = compile_digits(args.weights)

    table = Table(title=f"{len(labels)} images, guidance {args.guidance_scale:g}")
    for heading in (
        "images",
        "label as asked",
        "worst class",
        "nearest seen / unseen",
        "least to seen",
        "spread",
        "least varied class",
    ):
        table.add_column(heading)

    def add_row(name: str, images: Tensor, asked: npt.NDArray[np.int64]) -> None:
        right = judge.predict(pixels(images)) == asked
        worst = min(range(NUM_CLASSES), key=lambda c: right[asked == c].mean())
        seen = np.median(nearest(images, train_images[: len(held_out_images)]))
        varied = spread(images, asked) / spread(train_images, train_labels.numpy())
        unseen = np.median(nearest(images, held_out_images))
        table.add_row(
            name,
            f"{right.mean():.1%}",
            f"{right[asked == worst].mean():.0%} (digit {worst})",
            f"{seen:.1f} / {unseen:.1f}",
            f"{nearest(images, train_images).min():.1f}",
            f"{spread(images, asked).mean():.2f}",
            f"{varied.min():.0%} of real (digit {varied.argmin()})",
        )

    add_row("real, held out", held_out_images, held_out_labels.numpy())
    for solver, steps in SOLVERS:
        images = sampler.sample(
            class_labels=labels.tolist(),
            solver=solver,
            steps=steps,
            guidance_scale=args.guidance_scale,
            seed=args.seed,
        ).clamp(-1.0, 1.0)
        add_row(f"{solver}, {steps} steps", images, labels)
        if args.png is not None:
            save_grid(images, args.png.with_stem(f"{args.png.stem}_{solver}"))
    Console().print(table)
    print(
        "nearest: median distance over 64 pixels of 0 to 16 to the nearest of 360 training / "
        "held-out digits\nspread: standard deviation inside a class, mean over pixels"
    )


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description="Judge generated digits with a classifier trained on real ones.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--weights", type=Path, help="weights by train_digits.py; the shipped ones if left out")
    add("--per-class", type=int, default=50, help="images of each digit")
    add(
        "--guidance-scale",
        type=float,
        default=1.5,
        help="1 follows the data, higher is clearer and less varied",
    )
    add("--seed", type=int, default=0, help="seed of the initial noise")
    add("--png", type=Path, help="also save a grid of each solver's images under this name")
    return parser.parse_args()


if __name__ == "__main__":
    evaluate(parse_arguments())
