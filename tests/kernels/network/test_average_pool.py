from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from fastdiff import _native
from fastdiff.errors import InvalidArgument

from .operands import EPS, Array, beside, only_its_own, pixels


@dataclass
class Pool:
    """Windows over an image of random numbers, by the arguments of torch."""

    images: int
    size: tuple[int, int]
    channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int] = (0, 0)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.channels)
        self.x = beside(rng, (self.images, self.size[0] * self.size[1], self.channels))

    def expected(self) -> torch.Tensor:
        """(images, H', W', channels) float64."""
        image = torch.from_numpy(self.x.astype(np.float64)).unflatten(1, self.size)
        pooled = functional.avg_pool2d(
            image.permute(0, 3, 1, 2), self.kernel, self.stride, self.padding, **self.options
        )
        return pooled.permute(0, 2, 3, 1)

    def run(self, level: str, threads: int = 1) -> Array:
        _, *out_size, channels = self.expected().shape
        y = beside(None, (self.images, out_size[0] * out_size[1], channels))
        plan = _native.NetworkPlan(level)
        plan.average_pool(
            "pool", x=pixels(self.x), y=pixels(y), images=self.images, channels=channels,
            size=self.size, out_size=tuple(out_size), kernel=self.kernel, stride=self.stride,
            padding=self.padding, count_include_pad=self.options.get("count_include_pad", True),
            divisor=self.options.get("divisor_override", 0),
        )  # fmt: skip
        plan.run(threads)
        return y


CEIL, INSIDE = {"ceil_mode": True}, {"count_include_pad": False}
POOLS = [
    Pool(2, (6, 8), 33, (2, 2), (2, 2)),
    Pool(1, (7, 5), 1, (3, 2), (1, 3)),
    Pool(3, (7, 6), 4, (3, 3), (2, 2), (1, 1)),
    Pool(2, (7, 6), 20, (3, 3), (2, 2), (1, 1), INSIDE),
    Pool(2, (6, 4), 64, (3, 4), (2, 3), (1, 2), CEIL),
    Pool(2, (6, 4), 70, (3, 4), (2, 3), (1, 2), {**CEIL, **INSIDE}),
    Pool(1, (5, 4), 7, (2, 2), (2, 2), (0, 0), CEIL),
    Pool(1, (5, 6), 40, (4, 3), (3, 2), (2, 0), {**CEIL, "divisor_override": -5}),
    Pool(2, (1, 9), 3, (1, 9), (1, 9)),
    Pool(1, (3, 2), 5, (7, 6), (1, 1), (3, 3), INSIDE),
    Pool(2, (16, 16), 131, (16, 16), (16, 16)),  # channels are cut
    Pool(1, (40, 40), 12, (2, 2), (1, 1)),  # and pixels
]


@pytest.mark.parametrize("case", POOLS, ids=str)
def test_average_pool_is_what_torch_makes_of_the_same_arguments(level: str, case: Pool) -> None:
    y = case.run(level)

    want = case.expected().flatten(1, 2).numpy()
    terms = case.kernel[0] * case.kernel[1]
    divisor = abs(case.options.get("divisor_override", 1))
    assert np.abs(y - want).max() <= EPS * (terms + 1) * terms * np.abs(case.x).max() / divisor
    assert only_its_own(y)


def test_a_mean_of_whole_numbers_is_exact(level: str) -> None:
    case = Pool(2, (6, 8), 21, (3, 4), (3, 4))
    case.x[:] = np.arange(case.x.size).reshape(case.x.shape) % 89 * 12

    y = case.run(level)

    np.testing.assert_array_equal(y, case.expected().flatten(1, 2).numpy())


def test_an_image_has_the_same_bits_at_any_level_in_any_batch_and_with_any_threads(
    level: str,
) -> None:
    for case in POOLS:
        together = case.run("portable")
        np.testing.assert_array_equal(case.run(level, threads=3), together)
        alone = Pool(1, case.size, case.channels, case.kernel, case.stride, case.padding)
        alone.options, alone.x = case.options, case.x[-1:]
        np.testing.assert_array_equal(alone.run(level)[0], together[-1])


def test_infinity_and_nan_stay_in_their_windows(level: str) -> None:
    case = Pool(1, (4, 4), 19, (2, 2), (2, 2))
    case.x[0, 0, 0], case.x[0, 2, 18] = np.inf, np.nan

    y = case.run(level)

    assert np.argwhere(np.isposinf(y)).tolist() == [[0, 0, 0]]
    assert np.argwhere(np.isnan(y)).tolist() == [[0, 1, 18]]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"kernel": (0, 2)}, "a size, a kernel and a stride"),
        ({"stride": (2, 0)}, "a size, a kernel and a stride"),
        ({"padding": (2, 0)}, "a pixel of the image in every window"),
        ({"out_size": (3, 4)}, "a pixel of the image in every window"),
    ],
)
def test_windows_without_a_pixel_are_refused(changed: dict[str, Any], reason: str) -> None:
    plan = _native.NetworkPlan("portable")
    whole = {"size": (4, 6), "out_size": (2, 3), "kernel": (2, 2), "stride": (2, 2)}
    with pytest.raises(InvalidArgument, match=reason):
        plan.average_pool(
            "pool", x=(0, 0, 0), y=(0, 0, 0), images=1, channels=1, **{**whole, **changed}
        )
