"""The compiled kernels; arrays are NumPy arrays or DLPack capsules of contiguous CPU tensors."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def step(
    table: NDArray[np.void],
    rows: NDArray[np.void],
    state: Any,
    output: Any,
    history: Any | None,
    next_input: Any | None,
    denoised: Any | None,
    threads: int,
) -> NDArray[np.uint8]: ...
def fill_normal(
    out: Any,
    seeds: NDArray[np.uint64],
    images: NDArray[np.uint64],
    draw: int,
    tag: int,
    first: int,
    scale: float,
    threads: int,
) -> None: ...
def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, ...]: ...
def box_muller(
    radius_words: NDArray[np.uint32], angle_words: NDArray[np.uint32]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]: ...
def exponential(x: NDArray[np.float32]) -> NDArray[np.float32]: ...
def levels() -> dict[str, str | None]: ...
def active_level() -> str: ...
def use_level(name: str) -> None: ...
def fingerprint(name: str) -> int: ...
