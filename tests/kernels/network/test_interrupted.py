"""More threads than cores, which interrupt one another inside kernels: registers stay their own."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from fastdiff import _native

from .operands import Array, beside, pixels

THREADS, RUNS = 4, 100
SIZE, CHANNELS = (16, 16), 128


class Convolution:
    """Random numbers through a 1 x 1 of tiles, a plan of its own."""

    def __init__(self, level: str, algorithm: str, seed: int) -> None:
        rng = np.random.default_rng(seed)
        taps = rng.standard_normal((1, CHANNELS, CHANNELS)).astype(np.float32)
        shape = (1, SIZE[0] * SIZE[1], CHANNELS)
        self.x, self.y = beside(rng, shape), beside(None, shape)
        options: dict[str, object] = {}
        if algorithm == "int8":
            self.weights = _native.pack_int8((30 * taps).astype(np.int8))
            self.scales = np.full((2, CHANNELS), 30, np.float32)
            self.zeros = np.zeros(CHANNELS, np.int32)
            addresses = (a.ctypes.data for a in (*self.scales, self.zeros))
            options["quantization"] = *addresses, 90
        else:
            self.weights = _native.pack_tiles(taps)
        self.plan = _native.NetworkPlan(level)
        self.plan.conv(
            "conv", x=pixels(self.x), y=pixels(self.y), images=1, size=SIZE, channels=CHANNELS,
            out_size=SIZE, out_channels=CHANNELS, weights=self.weights.ctypes.data,
            kernel=(1, 1), algorithm=algorithm, **options,
        )  # fmt: skip

    def __call__(self) -> Array:
        self.plan.run(1)
        return self.y.copy()


@pytest.mark.parametrize("algorithm", ["tiles", "int8"])
def test_threads_that_interrupt_one_another_keep_their_registers(
    level: str, algorithm: str
) -> None:
    convolutions = [Convolution(level, algorithm, seed) for seed in range(THREADS)]
    expected = [convolution() for convolution in convolutions]

    def repeat(i: int) -> None:
        for _ in range(RUNS):
            np.testing.assert_array_equal(convolutions[i](), expected[i])

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(repeat, range(THREADS)))
