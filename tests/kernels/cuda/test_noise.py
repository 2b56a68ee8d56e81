"""The CUDA noise, compiled for the CPU, against its definition in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulator import Schedule
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape
from fastdiff.kernels.noise import reference
from fastdiff.kernels.noise.cuda import fill_normal

from .running import shifted

pytestmark = pytest.mark.usefixtures("emulated")


def normals(seed: int, image: int, draw: int, tag: int, first: int, n: int, shift: int = 0):
    out = shifted(torch.full((2, n), torch.nan), shift)
    seeds = torch.tensor([0, seed], dtype=torch.uint64)
    images = torch.tensor([0, image], dtype=torch.int64)
    fill_normal(out, seeds, images, draw, tag, 1.0, first)
    return out[1].numpy()


def assert_same_bits(got: np.ndarray, want: np.ndarray) -> None:
    np.testing.assert_array_equal(got.view(np.uint32), want.view(np.uint32))


def test_a_million_normals_have_the_bits_of_the_reference(schedule: Schedule) -> None:
    out = torch.full((4, 250_001), torch.nan)
    seeds, images = torch.arange(3, 7), torch.tensor([0, 1, 2**47, 2**48 - 1])
    fill_normal(out, seeds, images, 2**32 - 1, 1)
    for seed, image, row in zip(seeds.tolist(), images.tolist(), out.numpy(), strict=True):
        assert_same_bits(row, reference.normal(seed, image, 2**32 - 1, 1, 0, 250_001))


@settings(
    deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    seed=st.integers(0, 2**64 - 1),
    image=st.integers(0, 2**48 - 1),
    draw=st.integers(0, 2**32 - 1),
    tag=st.integers(0, 255),
    first=st.integers(0, 2**42 - 600),
    n=st.integers(1, 600),
    shift=st.integers(0, 4),
)
def test_any_part_of_any_stream(
    seed: int, image: int, draw: int, tag: int, first: int, n: int, shift: int
) -> None:
    got = normals(seed, image, draw, tag, first, n, shift)
    assert_same_bits(got, reference.normal(seed, image, draw, tag, first, n))


def test_scale_is_one_multiplication() -> None:
    out = torch.empty(1, 63)
    fill_normal(out, torch.tensor([5]), torch.tensor([0]), 0, 0, 0.3)
    assert_same_bits(out[0].numpy(), reference.normal(5, 0, 0, 0, 0, 63) * np.float32(0.3))


def test_arguments_that_do_not_fit_are_refused() -> None:
    good = {
        "out": torch.empty(1, 4),
        "seeds": torch.tensor([1]),
        "images": torch.tensor([0]),
        "draw": 0,
        "tag": 0,
    }
    fill_normal(**good)
    for bad, error in (
        ({"out": torch.empty(1, 4).double()}, InvalidDtype),
        ({"out": torch.empty(65_536, 1)}, InvalidShape),
        ({"seeds": torch.tensor([1, 2])}, InvalidShape),
        ({"images": torch.tensor([0.0])}, InvalidDtype),
        ({"draw": 2**32}, InvalidArgument),
        ({"tag": -1}, InvalidArgument),
        ({"first": 2**42 - 3}, InvalidArgument),
    ):
        with pytest.raises(error):
            fill_normal(**{**good, **bad})
