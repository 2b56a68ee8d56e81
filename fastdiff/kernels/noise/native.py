"""The noise of the compiled CPU kernels."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.kernels.arrays import Array, to_native


def fill_normal(
    out: Array,
    seeds: NDArray[np.uint64],
    images: NDArray[np.uint64],
    draw: int,
    tag: int,
    first: int,
    scale: float,
    own_threads: bool = False,
) -> None:
    """Fill ``out``, (rows, n) float32, on torch's number of threads; arguments are checked.

    `own_threads` is that of `fastdiff.kernels.step.step`.
    """
    threads = torch.get_num_threads()
    _native.fill_normal(
        to_native(out), seeds, images, draw, tag, first, scale, threads, own_threads
    )
