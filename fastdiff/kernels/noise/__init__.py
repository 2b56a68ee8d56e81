"""Standard normal noise as a pure function of (seed, image, draw, tag, element).

There is no state: the same arguments give the same bits alone, in any batch, in any order, on any
number of threads and at every instruction level. ``reference`` defines the bits, ``eager`` computes
them in torch on any device, and ``docs/noise.md`` describes their quality.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.kernels.arrays import Array
from fastdiff.kernels.noise import native

__all__ = ["TAG_INITIAL", "TAG_STEP", "fill_normal", "normal"]

TAG_INITIAL = 0
"""The tag of the initial noise x_T, whose draw is 0."""
TAG_STEP = 1
"""The tag of the noise of steps. The draw is the number of the step."""

_BITS = {"seed": 64, "image": 48, "draw": 32, "tag": 8}
_ELEMENT_BITS = 42


def normal(
    seed: int, image: int = 0, draw: int = 0, tag: int = 0, first: int = 0, *, count: int
) -> NDArray[np.float32]:
    """Return elements ``first`` to ``first + count - 1`` of the noise of one image.

    Parameters
    ----------
    seed : int
        Seed of the request, in [0, 2^64).
    image : int
        Image number inside the request, in [0, 2^48).
    draw : int
        The number of the draw of the image, such as the number of the step, in [0, 2^32).
    tag : int
        What the noise is for, in [0, 2^8): :data:`TAG_INITIAL` or :data:`TAG_STEP`.
    first, count : int
        The elements; ``first + count`` is at most 2^42.

    Returns
    -------
    ndarray, (count,) float32

    Raises
    ------
    InvalidArgument
        If an argument is out of its range.
    """
    if count < 0:
        raise InvalidArgument(f"count must not be negative, got {count}")
    out = np.empty(count, np.float32)
    fill_normal(out[None], seeds=[seed], images=[image], draw=draw, tag=tag, first=first)
    return out


def fill_normal(
    out: Array,
    *,
    seeds: Sequence[int],
    images: Sequence[int],
    draw: int,
    tag: int,
    scale: float = 1.0,
    first: int = 0,
) -> None:
    """Fill each row with its own noise: ``out[r] = scale * normal(seeds[r], images[r], ...)``.

    Parameters
    ----------
    out : Tensor or ndarray, (rows, n) float32
        Contiguous, in CPU memory; overwritten.
    seeds, images : sequence of int
        One for each row, in [0, 2^64) and [0, 2^48).
    draw, tag : int
        In [0, 2^32) and [0, 2^8), the same for all rows.
    scale : float
        Multiplies the normals, in float32.
    first : int
        Number of each row's first element; ``first + n`` is at most 2^42.

    Raises
    ------
    InvalidArgument
        If an argument is out of its range, or ``out`` is not contiguous or not writable;
        `InvalidShape` or `InvalidDtype` if it or the sequences do not fit.
    """
    rows, n = out.shape if len(out.shape) == 2 else (-1, -1)
    if (len(seeds), len(images)) != (rows, rows):
        raise InvalidShape(
            f"expected out of shape (rows, n) with a seed and an image for each row, got out "
            f"{tuple(out.shape)}, {len(seeds)} seeds and {len(images)} images"
        )
    for name, values in (("seed", seeds), ("image", images), ("draw", [draw]), ("tag", [tag])):
        _check_range(name, values)
    if first < 0 or first + n > 1 << _ELEMENT_BITS:
        raise InvalidArgument(
            f"elements must be in [0, 2^{_ELEMENT_BITS}), got {first} to {first + n}"
        )
    native.fill_normal(
        out, np.array(seeds, np.uint64), np.array(images, np.uint64), draw, tag, first, scale
    )


def _check_range(name: str, values: Sequence[int]) -> None:
    bits = _BITS[name]
    for value in values:
        if not 0 <= value < 1 << bits:
            raise InvalidArgument(f"{name} must be in [0, 2^{bits}), got {value}")
