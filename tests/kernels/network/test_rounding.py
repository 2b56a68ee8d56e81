"""Nodes that round their output ahead for the next convolution: its bits stay the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.errors import InvalidArgument

from .operands import Array, beside, heads, per_image, pixels

CHANNELS = 64  # whole tiles of both kinds
SIZES = [(1, 5), (7, 6), (3, 16)]  # tokens, rows that are shorter than a tile, and one tile
KERNELS = {(1, 1): (0, 0), (3, 3): (1, 1)}


class Network:
    """Some node computes images, and a convolution of tiles reads them."""

    def __init__(self, level: str, size: tuple[int, int], images: int = 3) -> None:
        self.size, self.images = size, images
        self.plan = _native.NetworkPlan(level)
        self.level, self.rng = level, np.random.default_rng(0)
        self.between = beside(None, (images, size[0] * size[1], CHANNELS))
        self.kept: list[NDArray[np.generic]] = []

    def random(self, *shape: int) -> Array:
        self.kept.append(beside(self.rng, shape))
        return self.kept[-1]  # type: ignore[return-value]

    def image(self) -> Array:
        return self.random(self.images, self.size[0] * self.size[1], CHANNELS)

    def conv(
        self, x: Array, y: Array, algorithm: str, kernel: tuple[int, int], **options: Any
    ) -> None:
        """Append a convolution of images of `size`, or of the size in `options`."""
        size = options.pop("size", self.size)
        taps = self.rng.standard_normal((kernel[0] * kernel[1], CHANNELS, CHANNELS)) / 16
        if algorithm == "int8":
            scales = np.full((2, CHANNELS), 30, np.float32), np.zeros(CHANNELS, np.int32)
            options["quantization"] = *(a.ctypes.data for a in (*scales[0], scales[1])), 90
            packed: NDArray[np.generic] = _native.pack_int8((100 * taps).astype(np.int8))
            self.kept += scales
        elif algorithm == "tiles":
            packed = _native.pack_tiles(taps.astype(np.float32))
        elif algorithm == "direct":
            packed = _native.pack_panels(taps.astype(np.float32), self.level)
        else:
            weights = taps.reshape(3, 3, CHANNELS, CHANNELS).transpose(3, 2, 0, 1)
            packed = _native.pack_winograd(
                np.ascontiguousarray(weights, np.float32), int(algorithm[-1]), self.level
            )
        self.kept.append(packed)
        self.plan.conv(
            "conv", x=pixels(x), y=pixels(y), images=self.images, size=size,
            channels=CHANNELS, out_size=size, out_channels=CHANNELS,
            weights=packed.ctypes.data, kernel=kernel, padding=KERNELS[kernel],
            algorithm=algorithm, **options,
        )  # fmt: skip

    def norm(self) -> dict[str, object]:
        gamma, beta = self.random(1, CHANNELS), self.random(1, CHANNELS)
        return {
            "x": pixels(self.image()), "y": pixels(self.between), "images": self.images,
            "pixels": self.size[0] * self.size[1], "channels": CHANNELS, "epsilon": 1e-5,
            "gamma": gamma.ctypes.data, "beta": beta.ctypes.data,
        }  # fmt: skip


def group_norm(network: Network) -> None:
    network.plan.group_norm("norm", **network.norm(), groups=8, activation="silu")


def layer_norm(network: Network) -> None:
    shift = network.random(network.images, CHANNELS)
    network.plan.layer_norm("norm", **network.norm(), shift=per_image(shift))


def average_pool(network: Network) -> None:
    network.plan.average_pool(
        "pool", x=pixels(network.image()), y=pixels(network.between), images=network.images,
        channels=CHANNELS, size=network.size, out_size=network.size, kernel=(3, 3), stride=(1, 1),
        padding=(1, 1),
    )  # fmt: skip


def conv(algorithm: str) -> Callable[[Network], None]:
    def add(network: Network) -> None:
        kernel = (3, 3) if algorithm.startswith("winograd") else (1, 1)
        residual = pixels(network.image())
        network.conv(
            network.image(), network.between, algorithm, kernel,
            residual=residual, activation="gelu_tanh",
        )  # fmt: skip

    add.__name__ = algorithm
    return add


def linear(algorithm: str) -> Callable[[Network], None]:
    """Tokens that are the pixels of the next image."""

    def add(network: Network) -> None:
        tokens = (1, network.size[0] * network.size[1])
        network.conv(network.image(), network.between, algorithm, (1, 1), size=tokens)

    add.__name__ = f"linear_{algorithm}"
    return add


def attention(algorithm: str) -> Callable[[Network], None]:
    def add(network: Network) -> None:
        tokens = network.size[0] * network.size[1]
        q, k, v, y = (
            heads(np.lib.stride_tricks.as_strided(
                a, (network.images, tokens, 4, 16), (*a.strides[:2], 64, 4)
            ))
            for a in (network.image(), network.image(), network.image(), network.between)
        )  # fmt: skip
        network.plan.attention(
            "attention", q=q, k=k, v=v, y=y, images=network.images, heads=4, queries=tokens,
            keys=tokens, depth=16, value_depth=16, scale=0.25, algorithm=algorithm,
        )  # fmt: skip

    add.__name__ = f"attention_{algorithm}"
    return add


BEFORE = [
    group_norm, layer_norm, average_pool, attention("direct"), attention("tiles"),
    *(conv(name) for name in ("direct", "winograd2", "winograd4", "tiles", "int8")),
    *(linear(name) for name in ("direct", "tiles", "int8")),
]  # fmt: skip


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ["tiles", "int8"])
@pytest.mark.parametrize("before", BEFORE, ids=lambda before: before.__name__)
def test_what_is_rounded_ahead_has_the_same_bits(
    level: str, before: Callable[[Network], None], algorithm: str, size: tuple[int, int]
) -> None:
    for kernel, threads in itertools.product(KERNELS, (1, 2)):
        results, between = [], []
        for ahead in (False, True):
            network = Network(level, size)
            y = beside(None, network.between.shape)
            before(network)
            network.conv(network.between, y, algorithm, kernel, ahead=ahead)
            network.plan.run(threads)
            results.append(y)
            between.append(network.between)
        np.testing.assert_array_equal(*results)
        assert not np.isnan(between[0]).any()
        assert np.isnan(between[1]).all()  # it never went through memory


def test_a_chain_reads_and_writes_rounded_images(level: str) -> None:
    """Of six convolutions, each rounds for the next while it reads what was rounded for it."""
    results = []
    for ahead in (False, True):
        network = Network(level, (4, 16))
        x = network.image()
        for i in range(6):
            y = beside(None, x.shape)
            network.kept.append(y)
            algorithm, kernel = ("tiles", "int8")[i % 2], list(KERNELS)[i // 2 % 2]
            network.conv(x, y, algorithm, kernel, ahead=ahead and i > 0)
            x = y
        network.plan.run(2)
        results.append(x)
    np.testing.assert_array_equal(*results)


def test_what_cannot_be_rounded_ahead_is_refused() -> None:
    network = Network("portable", (4, 4))
    x, y = network.image(), network.image()
    with pytest.raises(InvalidArgument, match="the node before it rounds nothing"):
        network.conv(x, y, "tiles", (1, 1), ahead=True)
    network.conv(x, y, "direct", (1, 1))
    with pytest.raises(InvalidArgument, match="no input of direct is rounded ahead"):
        network.conv(x, y, "direct", (1, 1), ahead=True)
    with pytest.raises(InvalidArgument, match="cannot be rounded ahead"):
        network.conv(x, y, "tiles", (1, 1), ahead=True, upsample=True)
