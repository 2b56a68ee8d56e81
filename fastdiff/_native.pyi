"""The compiled kernels; arrays are NumPy arrays or DLPack capsules of contiguous CPU tensors."""

from collections.abc import Sequence
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

Pixels = tuple[int, int, int]  # address, floats from image to image, floats from pixel to pixel
PerImage = tuple[int, int]  # address, elements from image to image
Heads = tuple[int, int, int, int]  # address, floats from image, head, token to the next
Strided = tuple[int, Sequence[int]]  # address, a stride in floats for each axis

class NetworkPlan:
    """A network as a list of kernel calls on fixed addresses (csrc/network/specs.h)."""

    def __init__(self, level: str = "") -> None: ...
    @property
    def level(self) -> str: ...
    @property
    def panel(self) -> int: ...
    @property
    def tile_math(self) -> str: ...
    @property
    def int8_math(self) -> str: ...
    @property
    def scratch_bytes(self) -> int: ...
    def conv(
        self,
        name: str,
        *,
        x: Pixels,
        y: Pixels,
        images: int,
        size: tuple[int, int],
        channels: int,
        out_size: tuple[int, int],
        out_channels: int,
        weights: int,
        kernel: tuple[int, int] = (1, 1),
        stride: int = 1,
        padding: tuple[int, int] = (0, 0),
        upsample: bool = False,
        bias: int = 0,
        shift: PerImage | None = None,
        activation: str = "none",
        scale: PerImage | None = None,
        residual: Pixels | None = None,
        algorithm: str = "direct",
        blocks: tuple[int, int] = (0, 0),
        quantization: tuple[int, int, int, int] | None = None,
        ahead: bool = False,
    ) -> None: ...
    def group_norm(
        self,
        name: str,
        *,
        x: Pixels,
        y: Pixels,
        images: int,
        pixels: int,
        channels: int,
        groups: int,
        gamma: int,
        beta: int,
        epsilon: float,
        activation: str = "none",
    ) -> None: ...
    def layer_norm(
        self,
        name: str,
        *,
        x: Pixels,
        y: Pixels,
        images: int,
        pixels: int,
        channels: int,
        epsilon: float,
        gamma: int = 0,
        beta: int = 0,
        scale: PerImage | None = None,
        shift: PerImage | None = None,
        centred: bool = True,
    ) -> None: ...
    def attention(
        self,
        name: str,
        *,
        q: Heads,
        k: Heads,
        v: Heads,
        y: Heads,
        images: int,
        heads: int,
        queries: int,
        keys: int,
        depth: int,
        value_depth: int,
        scale: float,
        algorithm: str = "direct",
    ) -> None: ...
    def map(
        self,
        name: str,
        *,
        shape: Sequence[int],
        inputs: Sequence[Strided],
        output: Strided,
        program: Sequence[tuple[str, int, int, float]],
    ) -> None: ...
    def gather(
        self,
        name: str,
        *,
        labels: PerImage,
        table: int,
        rows: int,
        channels: int,
        y: PerImage,
        images: int,
        halves: bool = ...,
    ) -> None: ...
    def observe(
        self,
        name: str,
        *,
        x: Pixels,
        images: int,
        pixels: int,
        channels: int,
        low: int,
        high: int,
    ) -> None: ...
    def use_scratch(self, address: int) -> None: ...
    def nodes(self) -> list[tuple[str, float]]: ...
    def run(self, threads: int) -> None: ...
    def profile(self, threads: int) -> list[float]: ...

def network_levels() -> dict[str, str | None]: ...
def operation_names() -> dict[str, tuple[str, ...]]: ...
def pack_panels(weights: NDArray[np.float32], level: str = "") -> NDArray[np.float32]: ...
def pack_tiles(weights: NDArray[np.float32]) -> NDArray[np.uint16]: ...
def pack_int8(weights: NDArray[np.int8]) -> NDArray[np.int8]: ...
def pack_winograd(
    weights: NDArray[np.float32], m: int, level: str = "", threads: int = 1
) -> NDArray[np.float32]: ...
