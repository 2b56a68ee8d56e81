"""Train the digits model from scratch on the images that scikit-learn ships.

The shipped weights are the output of this script with its default arguments:

    python examples/train_digits.py --out digits.safetensors

It is the whole of DDPM training in one file: draw an image, a time and a noise, mix them, and ask
the network for the noise. Dropping the label now and then teaches the same network the
unconditional prediction that classifier-free guidance needs.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from rich.progress import MofNCompleteColumn, Progress, TimeRemainingColumn
from safetensors.torch import save_file
from sklearn.datasets import load_digits as load_digit_images
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from fastdiff.models import NULL_CLASS, DigitsUNet

SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "prediction_type": "epsilon",
    "clip_sample": False,
}
"""The noise schedule, in the keys of a diffusers scheduler; it travels inside the weights file."""

HELD_OUT = 360
"""Real images that training never sees, 36 or so of each digit."""


def real_digits() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split the 1,797 real digits into those to train on and those to judge with.

    Returns
    -------
    train_images, held_out_images : Tensor, (1437, 1, 8, 8) and (360, 1, 8, 8) float32
        Pixels in [-1, 1]; the data has 17 grey levels.
    train_labels, held_out_labels : Tensor, (1437,) and (360,) int64
        The digit of each image.
    """
    data = load_digit_images()
    images = (data.images / 8.0 - 1.0).astype(np.float32)[:, None]
    split = train_test_split(
        images, data.target, test_size=HELD_OUT, random_state=0, stratify=data.target
    )
    train_images, held_out_images, train_labels, held_out_labels = map(torch.from_numpy, split)
    return train_images, train_labels, held_out_images, held_out_labels


def alphas_cumprod() -> Tensor:
    """Return abar_t = prod_{s <= t} (1 - beta_s) for every t, ``(1000,) float32``."""
    betas = torch.linspace(
        SCHEDULE["beta_start"],
        SCHEDULE["beta_end"],
        SCHEDULE["num_train_timesteps"],
        dtype=torch.float64,
    )
    return torch.cumprod(1.0 - betas, dim=0).float()


def denoising_loss(
    model: nn.Module, images: Tensor, labels: Tensor, abar: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean of ``(epsilon - epsilon_theta(x_t, t))^2`` (DDPM, equation 14).

    One random offset spreads the times of a batch evenly over the schedule (Kingma et al.,
    "Variational Diffusion Models", 2021, appendix I.1): the same expectation as independent
    uniform times with less variance.
    """
    n, T = len(images), len(abar)
    offset = torch.rand((), generator=generator)
    t = ((torch.arange(n) + offset) * (T / n)).long().clamp(max=T - 1)
    noise = torch.randn(images.shape, generator=generator)
    abar_t = abar[t][:, None, None, None]
    noisy = abar_t.sqrt() * images + (1.0 - abar_t).sqrt() * noise
    return mse_loss(model(noisy, t.float(), labels), noise)


def shuffled_batches(
    images: Tensor, labels: Tensor, size: int, generator: torch.Generator
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield full batches for ever, each epoch in a new order."""
    while True:
        order = torch.randperm(len(images), generator=generator)
        for batch in order.split(size)[: len(images) // size]:
            yield images[batch], labels[batch]


@torch.no_grad()
def update_ema(ema: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Move `ema` towards `model`; early steps use a shorter memory, to forget the random start."""
    decay = min(decay, (1 + step) / (10 + step))
    for average, value in zip(ema.parameters(), model.parameters(), strict=True):
        average.lerp_(value, 1.0 - decay)


@torch.no_grad()
def held_out_loss(model: nn.Module, images: Tensor, labels: Tensor, abar: Tensor) -> float:
    """Conditional loss on real images outside the training set, with the same noise every time."""
    generator = torch.Generator().manual_seed(0)
    rounds = [denoising_loss(model, images, labels, abar, generator) for _ in range(8)]
    return float(torch.stack(rounds).mean())


def save(model: nn.Module, path: Path) -> None:
    """Write weights and schedule to `path`, through a temporary name so that it is never half."""
    partial = path.with_suffix(".partial")
    save_file(model.state_dict(), partial, metadata={"schedule": json.dumps(SCHEDULE)})
    partial.replace(path)


def train(args: argparse.Namespace) -> None:
    """Train, and leave the averaged weights at ``args.out``."""
    torch.manual_seed(args.seed)
    generator = torch.Generator().manual_seed(args.seed)
    images, labels, held_out_images, held_out_labels = real_digits()
    abar = alphas_cumprod()
    model = DigitsUNet(dropout=args.dropout)
    ema = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    warmup = min(200, args.steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer,
        lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / args.steps)),
    )
    batches = shuffled_batches(images, labels, args.batch_size, generator)
    columns = (*Progress.get_default_columns()[:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        bar = progress.add_task("training", total=args.steps)
        recent = 1.0
        for step in range(1, args.steps + 1):
            x, y = next(batches)
            dropped = torch.rand(len(y), generator=generator) < args.label_dropout
            loss = denoising_loss(model, x, y.masked_fill(dropped, NULL_CLASS), abar, generator)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            update_ema(ema, model, step, args.ema_decay)
            recent += 0.01 * (loss.item() - recent)
            progress.advance(bar)
            if step % args.save_every == 0 or step == args.steps:
                judged = held_out_loss(ema, held_out_images, held_out_labels, abar)
                save(ema, args.out)
                progress.console.print(
                    f"step {step}: training loss {recent:.4f}, held-out loss {judged:.4f}"
                )
    print(f"wrote {args.out}")


def parse_arguments() -> argparse.Namespace:
    """Read the command line; the defaults are the recipe of the shipped weights."""
    parser = argparse.ArgumentParser(
        description="Train the class-conditional digits model of fastdiff (DDPM, 8 x 8 images).",
        epilog="Then judge it: python examples/evaluate_digits.py --weights digits.safetensors",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--out", type=Path, default=Path("digits.safetensors"), help="where the weights go")
    add("--steps", type=int, default=2000, help="optimizer steps; 500 already give rough digits")
    add("--seed", type=int, default=0, help="seed of weights, data order, times and noise")
    add("--batch-size", type=int, default=128, help="images per step, of 1,437")
    add("--lr", type=float, default=2e-3, help="peak learning rate: 200 steps up, then a cosine")
    add("--weight-decay", type=float, default=0.01, help="decoupled weight decay of AdamW")
    add("--dropout", type=float, default=0.05, help="dropout inside residual blocks")
    add(
        "--label-dropout",
        type=float,
        default=0.15,
        help="share of labels replaced by the null class, which is what guidance steers away from",
    )
    add("--ema-decay", type=float, default=0.998, help="decay of the weight average that is saved")
    add("--save-every", type=int, default=250, help="steps between two checkpoints and reports")
    return parser.parse_args()


if __name__ == "__main__":
    train(parse_arguments())
