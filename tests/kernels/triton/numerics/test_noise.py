from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape
from fastdiff.kernels.noise import TAG_STEP, reference
from fastdiff.kernels.noise.triton import fill_normal

from .device import DEVICE, on_device

LARGEST = {"draw": 2**32 - 1, "tag": 2**8 - 1}


def filled(seeds: list[int], images: list[int], n: int, **arguments: Any) -> NDArray[np.float32]:
    out = torch.full((len(seeds), n), torch.nan, device=DEVICE)
    words = (on_device(np.array(values, np.uint64)) for values in (seeds, images))
    fill_normal(out, *words, **arguments)
    return out.cpu().numpy()


def assert_same_bits(got: Any, want: Any) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def test_a_million_normals_have_the_bits_of_the_reference() -> None:
    got = filled([0x0123456789ABCDEF], [5], 1_000_003, draw=3, tag=TAG_STEP, first=1)
    assert_same_bits(got[0], reference.normal(0x0123456789ABCDEF, 5, 3, TAG_STEP, 1, 1_000_003))


@pytest.mark.parametrize(
    ("first", "n"), [(0, 1), (0, 64), (1, 1), (2, 63), (3, 123), (5, 257), (128, 66_000)]
)
def test_any_offset_and_length_is_a_window(first: int, n: int) -> None:
    got = filled([9], [8], n, draw=7, tag=1, first=first)
    assert_same_bits(got[0], reference.normal(9, 8, 7, 1, first, n))


@pytest.mark.parametrize("first", [2**42 - 1003, 2**34 - 501])
def test_largest_arguments_and_counter_carry(first: int) -> None:
    got = filled([2**64 - 1], [2**48 - 1], 1003, **LARGEST, first=first)
    want = reference.normal(2**64 - 1, 2**48 - 1, 2**32 - 1, 2**8 - 1, first, 1003)
    assert_same_bits(got[0], want)


def test_rows_are_independent_and_scaled() -> None:
    seeds, images = [3, 2**64 - 1, 3], [0, 1, 2**48 - 1]
    got = filled(seeds, images, 123, draw=4, tag=0, scale=0.3)
    for row, seed, image in zip(got, seeds, images, strict=True):
        assert_same_bits(row, np.float32(0.3) * reference.normal(seed, image, 4, 0, 0, 123))


def test_arguments_that_do_not_fit_raise() -> None:
    out = torch.empty(2, 5, device=DEVICE)
    words = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    with pytest.raises(InvalidArgument, match=r"draw must be in \[0, 2\^32\)"):
        fill_normal(out, words, words, 2**32, 0)
    with pytest.raises(InvalidArgument, match="tag must be"):
        fill_normal(out, words, words, 0, -1)
    with pytest.raises(InvalidArgument, match="elements must be"):
        fill_normal(out, words, words, 0, 0, first=2**42 - 4)
    with pytest.raises(InvalidShape, match=r"images: expected shape \(2\), got \(1,\)"):
        fill_normal(out, words, words[:1], 0, 0)
    with pytest.raises(InvalidDtype, match=r"seeds: expected torch\.int64 or torch\.uint64"):
        fill_normal(out, words.int(), words, 0, 0)
    with pytest.raises(InvalidDtype, match=r"out: expected torch\.float32"):
        fill_normal(out.double(), words, words, 0, 0)
    with pytest.raises(InvalidArgument, match="out: expected a contiguous tensor"):
        fill_normal(torch.empty(5, 2, device=DEVICE).t(), words, words, 0, 0)


def test_nothing_is_drawn_for_no_elements() -> None:
    words = torch.zeros(2, dtype=torch.int64, device=DEVICE)
    fill_normal(torch.empty(2, 0, device=DEVICE), words, words, 0, 0)
    fill_normal(torch.empty(0, 4, device=DEVICE), words[:0], words[:0], 0, 0)
