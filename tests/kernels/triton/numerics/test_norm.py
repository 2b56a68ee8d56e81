from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn.functional import group_norm as torch_group_norm
from torch.nn.functional import layer_norm as torch_layer_norm
from torch.nn.functional import silu as torch_silu

from fastdiff.errors import InvalidArgument, InvalidShape
from fastdiff.kernels.norm import reference
from fastdiff.kernels.norm.triton import group_norm, modulated_layer_norm

from .device import DEVICE, INTERPRETING

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ATOL = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 1e-2}
FORMATS = [torch.contiguous_format, torch.channels_last]


def double(tensor: torch.Tensor) -> NDArray[np.float64]:
    return tensor.double().cpu().numpy()


def assert_as_accurate(got: torch.Tensor, same_dtype: torch.Tensor, exact: Any) -> None:
    """Within twice the error of torch in the same dtype; the interpreter cuts bfloat16 stores."""
    assert got.dtype == same_dtype.dtype
    error, allowed = np.abs(double(got) - exact), np.abs(double(same_dtype) - exact).max()
    cut = 2.0**-7 * np.abs(exact) if INTERPRETING and got.dtype == torch.bfloat16 else 0
    assert (error <= 2 * allowed + ATOL[got.dtype] + cut).all(), (error.max(), allowed)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", FORMATS, ids=["contiguous", "channels_last"])
@pytest.mark.parametrize(
    ("shape", "groups"), [((2, 6, 5, 7), 3), ((1, 20, 31, 33), 1), ((1, 24, 8, 8), 3)]
)
def test_group_norm_is_as_accurate_as_torch(
    dtype: torch.dtype, memory_format: torch.memory_format, shape: tuple[int, ...], groups: int
) -> None:
    """Groups in registers and in chunks (20 x 31 x 33 elements), widths that divide nothing."""
    random = torch.Generator().manual_seed(groups)
    x = torch.randn(shape, generator=random).to(DEVICE, dtype).to(memory_format=memory_format)
    weight, bias = torch.randn(2, shape[1], generator=random).to(DEVICE, dtype)
    for silu in (False, True):
        got = group_norm(x, groups, weight, bias, silu=silu)
        assert got.stride() == x.stride()
        exact = reference.group_norm(double(x), groups, double(weight), double(bias), silu=silu)
        same_dtype = torch_group_norm(x, groups, weight, bias)
        assert_as_accurate(got, torch_silu(same_dtype) if silu else same_dtype, exact)


@pytest.mark.parametrize("size", [(5, 7), (65, 63)], ids=["registers", "chunks"])
def test_group_norm_keeps_its_digits_far_from_zero(size: tuple[int, int]) -> None:
    """A mean of 1000 standard deviations: sums of squares in float32 would lose all digits."""
    x = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(1)) + 1000
    x = x.to(DEVICE)
    got = group_norm(x, 2)
    assert np.abs(double(got) - reference.group_norm(double(x), 2)).max() < 2e-4


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("features", [1, 63, 384])
def test_modulated_layer_norm_is_as_accurate_as_torch(dtype: torch.dtype, features: int) -> None:
    """Shift and scale are chunks of one projection, as in DiT."""
    random = torch.Generator().manual_seed(features)
    x = (torch.randn(2, 3, features, generator=random) + 3).to(DEVICE, dtype)
    projection = torch.randn(2, 6 * features, generator=random).to(DEVICE, dtype)
    shift, scale = projection.chunk(6, 1)[1:3]
    got = modulated_layer_norm(x, shift, scale)
    exact = reference.modulated_layer_norm(double(x), double(shift), double(scale))
    same_dtype = torch_layer_norm(x, (features,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    assert_as_accurate(got, same_dtype, exact)


def test_references_are_torch_in_double() -> None:
    random = torch.Generator().manual_seed(0)
    x, weight, bias = torch.randn(2, 6, 3, 4), torch.randn(6), torch.randn(6)
    x, weight, bias = (v.double() for v in (x, weight, bias))
    want = torch_silu(torch_group_norm(x, 2, weight, bias, 1e-3))
    got = reference.group_norm(x.numpy(), 2, weight.numpy(), bias.numpy(), 1e-3, silu=True)
    np.testing.assert_allclose(got, want.numpy(), rtol=1e-12, atol=1e-13)
    tokens = torch.randn(2, 3, 8, generator=random).double()
    shift, scale = torch.randn(2, 2, 8, generator=random).double()
    modulated = torch_layer_norm(tokens, (8,), eps=1e-6) * (1 + scale[:, None]) + shift[:, None]
    got = reference.modulated_layer_norm(tokens.numpy(), shift.numpy(), scale.numpy())
    np.testing.assert_allclose(got, modulated.numpy(), rtol=1e-12, atol=1e-13)


def test_tensors_that_do_not_fit_raise() -> None:
    x = torch.zeros(2, 6, 3, 3, device=DEVICE)
    with pytest.raises(InvalidArgument, match="groups must divide the 6 channels of x, got 4"):
        group_norm(x, 4)
    with pytest.raises(InvalidShape, match=r"bias: expected shape \(6\), got \(5,\)"):
        group_norm(x, 2, *(torch.ones(size, device=DEVICE) for size in (6, 5)))
    with pytest.raises(InvalidArgument, match="x: expected a contiguous tensor"):
        group_norm(x[:, :, ::2], 2)
    with pytest.raises(InvalidShape, match=r"x: expected shape \(any, any, any, any\)"):
        group_norm(x[0], 2)
    tokens, rows = (torch.zeros(*shape, device=DEVICE) for shape in ((2, 3, 8), (2, 8)))
    with pytest.raises(InvalidShape, match="scale: expected 2 rows, got 3"):
        modulated_layer_norm(tokens, rows, tokens[0])
    with pytest.raises(InvalidShape, match="at most 16384 features, got 16385"):
        modulated_layer_norm(torch.zeros(1, 1, 16385, device=DEVICE), rows, rows)
    with pytest.raises(InvalidArgument, match="shift: expected a contiguous tensor"):
        modulated_layer_norm(tokens, torch.zeros(2, 16, device=DEVICE)[:, ::2], rows)
