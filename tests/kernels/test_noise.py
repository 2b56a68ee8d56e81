from __future__ import annotations

from math import erfc, sqrt
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fastdiff import _native
from fastdiff.errors import InvalidArgument, InvalidDtype, InvalidShape
from fastdiff.kernels.noise import TAG_INITIAL, TAG_STEP, eager, fill_normal, normal, reference

LARGEST = {"seed": 2**64 - 1, "image": 2**48 - 1, "draw": 2**32 - 1, "tag": 2**8 - 1}


def words(hexadecimal: list[str]) -> NDArray[np.uint32]:
    return np.array([int(word, 16) for word in hexadecimal], np.uint32)


def differing(a: NDArray[np.float32], b: NDArray[np.float32]) -> int:
    assert a.dtype == b.dtype == np.float32
    return int((a.view(np.uint32) != b.view(np.uint32)).sum())


def special_words() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Every pair of words at which a shift, a mask or the split of the logarithm changes."""
    powers = [1 << i for i in range(32)]
    edges = [*powers, *(p - 1 for p in powers), *(2**32 - p for p in powers)]
    edges += [0xB504F330, 0xB504F333, 0xB504F334, 0x5A827999, 0xBFFFFFFF]
    values = np.unique(np.array(edges, np.uint32))
    radius, angle = np.meshgrid(values, values)
    return radius.ravel().copy(), angle.ravel().copy()


def test_philox_known_answers(known_answers: dict[str, Any]) -> None:
    for case in known_answers["philox4x32_10"]:
        counter, key, want = (words(case[name]).tolist() for name in ("counter", "key", "words"))
        numpy_words = [int(word[0]) for word in reference.philox(counter, (key[0], key[1]))]
        torch_words = eager.philox([torch.tensor([word]) for word in counter], (key[0], key[1]))
        assert numpy_words == want
        assert [int(word) for word in torch_words] == want
        assert list(_native.philox(tuple(counter), (key[0], key[1]))) == want


def test_box_muller_known_answers(level: str, known_answers: dict[str, Any]) -> None:
    cases = known_answers["box_muller"]
    radius = words([case["radius_word"] for case in cases])
    angle = words([case["angle_word"] for case in cases])
    want = np.stack([words(case["normals"]).view(np.float32) for case in cases], axis=1)
    for got in (_native.box_muller(radius, angle), reference.box_muller(radius, angle)):
        assert differing(got[0], want[0]) == differing(got[1], want[1]) == 0


def test_box_muller_special_words_have_the_same_bits(level: str) -> None:
    radius, angle = special_words()
    want = reference.box_muller(radius, angle)
    tensors = [torch.from_numpy(w.astype(np.int64)) for w in (radius, angle)]
    for got in (
        _native.box_muller(radius, angle),
        [z.numpy() for z in eager.box_muller(tensors[0], tensors[1])],
    ):
        assert differing(got[0], want[0]) == differing(got[1], want[1]) == 0
    assert np.isfinite(want).all()
    assert np.abs(want).max() == np.float32(sqrt(64 * np.log(2)))


def test_normal_known_answers(level: str, known_answers: dict[str, Any]) -> None:
    for case in known_answers["normal"]:
        arguments = {name: int(value, 16) for name, value in case.items() if name != "normals"}
        want = words(case["normals"]).view(np.float32)
        assert differing(normal(**arguments, count=10), want) == 0
        assert differing(reference.normal(**arguments, count=10), want) == 0
        assert differing(eager.normal(**arguments, count=10).numpy(), want) == 0


@pytest.fixture(scope="module")
def ten_million() -> NDArray[np.float32]:
    arguments = {"seed": 0x0123456789ABCDEF, "image": 5, "draw": 3, "tag": TAG_STEP, "first": 1}
    pieces = [
        reference.normal(**{**arguments, "first": 1 + start}, count=1_000_000)
        for start in range(0, 10_000_000, 1_000_000)
    ]
    return np.concatenate(pieces)


def test_ten_million_normals_have_the_same_bits(
    level: str, ten_million: NDArray[np.float32]
) -> None:
    got = normal(0x0123456789ABCDEF, image=5, draw=3, tag=TAG_STEP, first=1, count=10_000_000)
    assert differing(got, ten_million) == 0


def test_ten_million_normals_have_the_same_bits_in_torch(ten_million: NDArray[np.float32]) -> None:
    for start in range(0, 10_000_000, 1_000_000):
        got = eager.normal(0x0123456789ABCDEF, 5, 3, TAG_STEP, 1 + start, 1_000_000)
        assert differing(got.numpy(), ten_million[start : start + 1_000_000]) == 0


def test_largest_arguments_and_counter_carry(level: str) -> None:
    """The last elements of all, and a run across the carry from counter word 0 to word 3."""
    for first in (2**42 - 1003, 2**34 - 501):
        got = normal(**LARGEST, first=first, count=1003)
        assert differing(got, reference.normal(**LARGEST, first=first, count=1003)) == 0


@pytest.mark.parametrize("count", [0, 1, 2, 3, 5, 31, 63, 64, 65, 123, 200])
def test_any_offset_and_length_is_a_window(level: str, count: int) -> None:
    whole = reference.normal(9, 8, 7, TAG_INITIAL, 0, 512)
    for first in range(0, 130, 7):
        window = normal(9, image=8, draw=7, tag=TAG_INITIAL, first=first, count=count)
        assert differing(window, whole[first : first + count]) == 0


def test_fill_normal_rows_are_independent_and_scaled(level: str, threads: int) -> None:
    seeds, images, n = [3, 2**64 - 1, 3], [0, 1, 2**48 - 1], 20_011
    out = torch.full((3, n), torch.nan)
    fill_normal(out, seeds=seeds, images=images, draw=4, tag=TAG_STEP, scale=0.3, first=5)
    for row, seed, image in zip(out, seeds, images, strict=True):
        want = np.float32(0.3) * reference.normal(seed, image, 4, TAG_STEP, 5, n)
        assert differing(row.numpy(), want) == 0


def test_flush_to_zero_of_the_caller_does_not_change_bits() -> None:
    if not torch.set_flush_denormal(True):
        pytest.skip("this CPU cannot flush denormals")
    try:
        out = np.empty((1, 257), np.float32)
        fill_normal(out, seeds=[1], images=[0], draw=0, tag=0, scale=1.5e-38)
    finally:
        torch.set_flush_denormal(False)
    want = np.float32(1.5e-38) * reference.normal(1, 0, 0, 0, 0, 257)
    assert differing(out[0], want) == 0
    assert ((want != 0) & (np.abs(want) < np.finfo(np.float32).tiny)).any()


def test_normals_are_within_four_ulp_of_exact_arithmetic() -> None:
    """Against float64 on the same (rounded) uniforms; docs/noise.md quotes the figures."""
    radius_word, angle_word = np.random.default_rng(0).integers(0, 2**32, (2, 1 << 21), np.uint32)
    u = ((radius_word >> 1).astype(np.float32) + np.float32(0.5)).astype(np.float64) * 2.0**-31
    signed = ((angle_word << np.uint32(2)) | np.uint32(2)).view(np.int32).astype(np.float32)
    angle = signed.astype(np.float64) * 2.0**-31 * np.pi / 4
    cosine = np.cos(angle) * np.where(angle_word >> 31, -1, 1)
    swap = (angle_word >> 30 & 1).astype(bool)
    radius = np.sqrt(-2 * np.log(u))
    exact = (
        radius * np.where(swap, np.sin(angle), cosine),
        radius * np.where(swap, cosine, np.sin(angle)),
    )
    for z, truth in zip(reference.box_muller(radius_word, angle_word), exact, strict=True):
        ulp = np.abs(z - truth) / np.spacing(np.abs(truth).astype(np.float32))
        assert ulp.max() < 4
        assert ulp.mean() < 0.5


def test_moments_and_tails(ten_million: NDArray[np.float32]) -> None:
    z = ten_million.astype(np.float64)
    moments = {1: (0, 1), 2: (1, 2), 3: (0, 15), 4: (3, 96), 6: (15, 10170)}  # mean, variance
    for power, (mean, variance) in moments.items():
        assert abs((z**power).mean() - mean) < 5 * sqrt(variance / z.size), power
    for bound in (1, 2, 3, 4, 5):
        expected = z.size * erfc(bound / sqrt(2))
        assert abs((np.abs(z) > bound).sum() - expected) < 5 * sqrt(expected), bound


def test_neighbours_are_uncorrelated(ten_million: NDArray[np.float32]) -> None:
    z, count = ten_million[:1_000_000].astype(np.float64), 1_000_000 - 64
    others = {f"lag {lag}": z[lag:][:count] for lag in (1, 2, 3, 4, 8, 64)}
    for name, changed in (("image", {"image": 6}), ("draw", {"draw": 4}), ("tag", {"tag": 0})):
        arguments = {"seed": 0x0123456789ABCDEF, "image": 5, "draw": 3, "tag": TAG_STEP, **changed}
        others[name] = normal(**arguments, first=1, count=count).astype(np.float64)
    for name, other in others.items():
        assert abs((z[:count] * other).mean()) < 5 / sqrt(count), name
        assert abs(((z[:count] ** 2 - 1) * (other**2 - 1)).mean()) < 10 / sqrt(count), name


@pytest.mark.parametrize("name", LARGEST)
@pytest.mark.parametrize("off", [-1, 1])
def test_arguments_out_of_range_raise(name: str, off: int) -> None:
    arguments = {"seed": 0, name: -1 if off < 0 else LARGEST[name] + 1}
    with pytest.raises(InvalidArgument, match=name):
        normal(**arguments, count=1)


def test_elements_out_of_range_raise() -> None:
    for first, count in ((-1, 1), (2**42, 1), (2**42 - 3, 4)):
        with pytest.raises(InvalidArgument, match="elements"):
            normal(0, first=first, count=count)
    with pytest.raises(InvalidArgument, match="count"):
        normal(0, count=-1)


def test_bad_outputs_raise() -> None:
    keywords: Any = {"seeds": [0, 1], "images": [0, 0], "draw": 0, "tag": 0}
    with pytest.raises(InvalidShape, match="2 seeds"):
        fill_normal(np.empty((3, 4), np.float32), **keywords)
    with pytest.raises(InvalidShape, match=r"\(8,\)"):
        fill_normal(np.empty(8, np.float32), **keywords)
    with pytest.raises(InvalidDtype, match="expected float32"):
        fill_normal(np.empty((2, 4)), **keywords)
    with pytest.raises(InvalidDtype, match="got bfloat16"):
        fill_normal(torch.empty(2, 4, dtype=torch.bfloat16), **keywords)
    with pytest.raises(InvalidArgument, match="contiguous"):
        fill_normal(torch.empty(4, 2).t(), **keywords)
    read_only = np.empty((2, 4), np.float32)
    read_only.flags.writeable = False
    with pytest.raises(InvalidArgument, match="read-only"):
        fill_normal(read_only, **keywords)
    with pytest.raises(InvalidArgument, match="meta"):
        fill_normal(torch.empty(2, 4, device="meta"), **keywords)
    with pytest.raises(InvalidArgument, match="list"):
        _native.fill_normal([[0.0]], np.zeros(1, np.uint64), np.zeros(1, np.uint64), 0, 0, 0, 1, 1)
