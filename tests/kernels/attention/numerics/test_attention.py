"""The GPU kernels against float64: Triton in the interpreter, both languages on a GPU."""

from __future__ import annotations

import importlib

import pytest
import torch

from fastdiff.kernels import triton_module

from ..cases import (  # noqa: TID252
    LAYOUTS,
    RANGES,
    SHAPES,
    Inputs,
    Shape,
    assert_as_accurate_as_torch,
    padded_output,
    random_inputs,
)

INTERPRETING = triton_module.interpreting()
DEVICE = "cpu" if INTERPRETING else "cuda"
LANGUAGES = ("triton",) if INTERPRETING else ("triton", "cuda")
DTYPES = (torch.float16,) if INTERPRETING else (torch.float16, torch.bfloat16)
"""The interpreter multiplies the bits of bfloat16 as if they were integers."""

pytestmark = [
    *([] if INTERPRETING else [pytest.mark.gpu]),
    pytest.mark.parametrize("language", LANGUAGES),
]


def run(language: str, inputs: Inputs, scale: float | None = None) -> torch.Tensor:
    """A language's kernel; what is beside the result stays untouched."""
    kernel = importlib.import_module(f"fastdiff.kernels.attention.{language}").attention
    q, k, v = inputs
    out, beside = padded_output(q)
    kernel(q, k, v, out, q.shape[3] ** -0.5 if scale is None else scale)
    assert beside.isnan().all(), "wrote past the end of a row"
    return out


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_any_shape_is_as_accurate_as_torch(language: str, shape: Shape, dtype: torch.dtype) -> None:
    inputs = random_inputs(shape, dtype, device=DEVICE)
    assert_as_accurate_as_torch(run(language, inputs), inputs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_is_read_in_place(language: str, layout: str) -> None:
    inputs = random_inputs(Shape(2, 3, 65, 33, 40), torch.float16, layout, device=DEVICE)
    assert_as_accurate_as_torch(run(language, inputs), inputs)


@pytest.mark.parametrize(("magnitude", "scale"), RANGES)
def test_any_range_of_scores_is_as_accurate_as_torch(
    language: str, magnitude: float, scale: float | None
) -> None:
    inputs = random_inputs(
        Shape(1, 1, 100, 150, 24), torch.float16, magnitude=magnitude, device=DEVICE
    )
    assert_as_accurate_as_torch(run(language, inputs, scale), inputs, scale)
