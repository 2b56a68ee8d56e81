"""Views against NumPy's own strides."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastdiff.native.views import View, merge_axes

MEMORY = np.arange(4096)


def elements(view):
    strides = [8 * step for step in view.strides]
    return np.lib.stride_tricks.as_strided(MEMORY[view.offset :], view.shape, strides)


@st.composite
def views(draw):
    """A permuted, sliced and perhaps broadcast part of a contiguous tensor."""
    shape = draw(st.lists(st.sampled_from((1, 2, 3, 4)), min_size=1, max_size=4))
    view = View.of("memory", shape).permute(draw(st.permutations(range(len(shape)))))
    axis = draw(st.integers(0, len(shape) - 1))
    start = draw(st.integers(0, view.shape[axis] - 1))
    stop = draw(st.integers(start + 1, view.shape[axis]))
    view = view.slice(axis, start, stop, draw(st.integers(1, 2)))
    return view.expand((2, *view.shape)) if draw(st.booleans()) else view


def factorisations(draw, count):
    sizes = []
    while count > 1 and len(sizes) < 4:
        size = draw(st.sampled_from([n for n in range(2, count + 1) if count % n == 0]))
        sizes.append(size)
        count //= size
    return [*sizes, *([count] if count > 1 else [])]


@given(st.data())
def test_reshape_is_a_view_exactly_where_numpy_makes_one(data):
    view = data.draw(views())
    shape = factorisations(data.draw, view.numel)
    expected = elements(view).reshape(shape)
    got = view.reshape(shape)
    assert (got is not None) == np.shares_memory(expected, MEMORY)
    if got is not None:
        np.testing.assert_array_equal(elements(got), expected)


@given(views())
def test_axes_of_one_element_have_stride_zero_so_that_equal_views_are_equal(view):
    assert view.last == elements(view).max()
    again = view.reshape((*view.shape, 1))
    assert again.drop(len(view.shape)) == view
    assert all(step == 0 for n, step in zip(view.shape, view.strides, strict=True) if n == 1)


@given(views(), st.data())
def test_merged_axes_visit_the_same_elements_in_the_same_order(view, data):
    other = View.of("other", view.shape).permute(range(len(view.shape)))
    merged = merge_axes([view, other])
    assert merged[0].shape == merged[1].shape
    for before, after in zip((view, other), merged, strict=True):
        np.testing.assert_array_equal(elements(before).ravel(), elements(after).ravel())


@pytest.mark.parametrize(
    ("shape", "merged"), [((2, 3, 4), (24,)), ((2, 1, 4), (8,)), ((1, 1), ()), ((5,), (5,))]
)
def test_contiguous_axes_merge_into_one(shape, merged):
    assert merge_axes([View.of("memory", shape)])[0].shape == merged
