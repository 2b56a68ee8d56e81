"""Samples as files: pictures, videos, sound, and arrays for all else."""

from __future__ import annotations

import math
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.networks import SampleShape, picture_shape

FORMATS = {
    ".png": "a grid of pictures",
    ".webp": "videos, or a grid of pictures",
    ".gif": "videos",
    ".wav": "sound, a file for each sample",
    ".npy": "a float32 array of any samples",
}
"""What ``--out`` may end in."""

_LEAST_COLUMNS = 10
_MIN_SIDE = 64  # smaller images are enlarged to at least this many pixels, without smoothing
_SOUND_PEAK = 32767  # of 16-bit samples


def to_uint8(samples: Tensor) -> npt.NDArray[np.uint8]:
    """Turn (..., C, H, W) in [-1, 1] into (..., H, W, C) bytes, C being 1 or 3.

    Raises
    ------
    InvalidShape
        The samples are no grey or colour pictures; latents need their decoder first.
    """
    if samples.ndim < 4 or samples.shape[-3] not in (1, 3):
        raise InvalidShape(
            f"expected pictures (n, 1 or 3, H, W), got {tuple(samples.shape)}; save as .npy instead"
        )
    scaled = samples.clamp(-1, 1).add(1).mul(127.5).round()
    return scaled.movedim(-3, -1).numpy().astype(np.uint8)


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


def save(
    samples: Tensor, path: Path, columns: int, *, fps: float = 8.0, sample_rate: int | None = None
) -> list[Path]:
    """Write samples as what the file's name ends in (`FORMATS`); return the files.

    Parameters
    ----------
    samples : Tensor
        (n, C, H, W) pictures, (n, C, F, H, W) videos, (n, C, L) sound with C channels, all in
        [-1, 1]; anything for an array.
    path : Path
    columns : int
        Of a grid, in which videos play side by side.
    fps : float
        Frames of a video per second.
    sample_rate : int, optional
        Values of a channel of sound per second.

    Raises
    ------
    InvalidArgument
        The name ends otherwise, or the samples are of another kind.
    """
    check_format(path)
    if path.suffix == ".npy":
        np.save(path, samples.numpy())
    elif path.suffix == ".wav":
        return _save_sound(samples, path, sample_rate)
    elif samples.ndim == 5 and path.suffix in {".gif", ".webp"}:
        frames = [grid(samples[:, :, frame], columns) for frame in range(samples.shape[2])]
        first, *rest = frames
        first.save(
            path, save_all=True, append_images=rest, duration=1000 / fps, loop=0, lossless=True
        )
    elif path.suffix == ".gif":
        raise InvalidArgument(
            f"--out: {path.name} is for videos, (C, F, H, W), these are samples of "
            f"{tuple(samples.shape[1:])}"
        )
    else:
        grid(samples, columns).save(path, lossless=True)
    return [path]


def check_format(path: Path) -> None:
    """Refuse a name that ends in none of `FORMATS`."""
    if path.suffix not in FORMATS:
        known = "; ".join(f"{suffix} ({what})" for suffix, what in FORMATS.items())
        raise InvalidArgument(f"--out: expected a name ending in {known}; got {path.name!r}")


def _save_sound(samples: Tensor, path: Path, sample_rate: int | None) -> list[Path]:
    """Write (n, 1 or 2, L) in [-1, 1] as 16-bit PCM, numbered where there are several."""
    if samples.ndim != 3 or samples.shape[1] not in (1, 2):
        raise InvalidShape(
            f"expected sound (n, 1 or 2, L), got {tuple(samples.shape)}; save as .npy instead"
        )
    if sample_rate is None:
        raise InvalidArgument("--sample-rate: sound needs it, such as 44100")
    written = []
    for i, sound in enumerate(samples):
        name = path if len(samples) == 1 else path.with_stem(f"{path.stem}_{i}")
        values = sound.clamp(-1, 1).mul(_SOUND_PEAK).round().T.contiguous().numpy()
        with wave.open(str(name), "wb") as file:
            file.setnchannels(sound.shape[0])
            file.setsampwidth(2)
            file.setframerate(sample_rate)
            file.writeframes(values.astype("<i2").tobytes())
        written.append(name)
    return written


def read(path: Path, shape: SampleShape) -> Tensor:
    """Read a picture as data of a model: (1, C, H, W) float32 in [-1, 1], resized to `shape`.

    Raises
    ------
    InvalidArgument
        It is not a picture.
    InvalidShape
        The model does not make pictures.
    """
    channels, *_ = picture_shape("--image", shape)
    if channels not in (1, 3):
        raise InvalidShape(f"expected a model of pictures with 1 or 3 channels, got {channels}")
    return _read(path, shape, "L" if channels == 1 else "RGB").mul(2).sub(1)


def read_mask(path: Path, shape: SampleShape) -> Tensor:
    """Read a picture as a mask, (1, 1, H, W) float32: 1 where it is white, resized to `shape`."""
    return _read(path, shape, "L")


def _read(path: Path, shape: SampleShape, mode: str) -> Tensor:
    _, height, width = picture_shape(path.name, shape)
    try:
        with Image.open(path) as picture:
            pixels = np.asarray(picture.convert(mode).resize((width, height)), np.float32) / 255
    except (OSError, Image.DecompressionBombError) as error:
        raise InvalidArgument(f"{path} is not a picture that can be read: {error}") from error
    return torch.from_numpy(pixels.reshape(1, height, width, -1)).permute(0, 3, 1, 2)
