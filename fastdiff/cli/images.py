"""Samples as pictures."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidShape

_LEAST_COLUMNS = 10
_MIN_SIDE = 64  # smaller images are enlarged to at least this many pixels, without smoothing


def to_uint8(samples: Tensor) -> npt.NDArray[np.uint8]:
    """Turn (n, C, H, W) in [-1, 1] into (n, H, W, C) bytes, C being 1 or 3.

    Raises
    ------
    InvalidShape
        The samples are no grey or colour pictures; latents need their decoder first.
    """
    if samples.ndim != 4 or samples.shape[1] not in (1, 3):
        raise InvalidShape(
            f"expected pictures (n, 1 or 3, H, W), got {tuple(samples.shape)}; save as .npy instead"
        )
    scaled = samples.clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.permute(0, 2, 3, 1).numpy().astype(np.uint8)


def grid(samples: Tensor, columns: int, gap: int = 1) -> Image.Image:
    """Lay (n, C, H, W) samples out as one picture, row by row, `gap` pixels apart."""
    pictures = to_uint8(samples)
    count, height, width, channels = pictures.shape
    rows = -(-count // columns)
    sheet = np.zeros(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), np.uint8
    )
    for i, picture in enumerate(pictures):
        top, left = (i // columns) * (height + gap) + gap, (i % columns) * (width + gap) + gap
        sheet[top : top + height, left : left + width] = picture
    image = Image.fromarray(sheet[:, :, 0] if channels == 1 else sheet)
    factor = max(1, -(-_MIN_SIDE // max(height, width)))
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def columns_of(count: int, group: int) -> int:
    """Return how many of `count` pictures stand side by side, in whole groups of `group`.

    As many as make a square, but no fewer than ten if there are ten; a group is never broken.
    """
    columns = max(math.isqrt(max(count - 1, 0)) + 1, min(count, _LEAST_COLUMNS))
    return max(group, columns // group * group)


def save(samples: Tensor, path: Path, columns: int) -> None:
    """Write samples as a grid (.png) or as they are (.npy, float32).

    Raises
    ------
    InvalidArgument
        The file name ends otherwise.
    """
    if path.suffix not in {".png", ".npy"}:
        raise InvalidArgument(f"--out: expected a name ending in .png or .npy, got {path.name!r}")
    if path.suffix == ".npy":
        np.save(path, samples.numpy())
    else:
        grid(samples, columns).save(path)


def read(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Read a picture as data of a model: (1, C, H, W) float32 in [-1, 1], resized to `shape`.

    Raises
    ------
    InvalidArgument
        It is not a picture.
    InvalidShape
        The model does not make pictures.
    """
    channels, *_ = shape
    if channels not in (1, 3):
        raise InvalidShape(f"expected a model of pictures with 1 or 3 channels, got {channels}")
    return _read(path, shape, "L" if channels == 1 else "RGB").mul(2).sub(1)


def read_mask(path: Path, shape: tuple[int, int, int]) -> Tensor:
    """Read a picture as a mask, (1, 1, H, W) float32: 1 where it is white, resized to `shape`."""
    return _read(path, shape, "L")


def _read(path: Path, shape: tuple[int, int, int], mode: str) -> Tensor:
    _, height, width = shape
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert(mode).resize((width, height)), np.float32) / 255
    except (OSError, Image.DecompressionBombError) as error:
        raise InvalidArgument(f"{path} is not a picture that can be read: {error}") from error
    return torch.from_numpy(pixels.reshape(1, height, width, -1)).permute(0, 3, 1, 2)
