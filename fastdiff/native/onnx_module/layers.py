"""Operators that have kernels: convolutions, products, attention, norms, resizing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fastdiff.native.onnx_module.deferred import (
    GroupNormed,
    MatrixProduct,
    Probabilities,
    Regrouped,
    Scores,
)
from fastdiff.native.onnx_module.folding import Unreadable, integers
from fastdiff.native.onnx_module.values import (
    Value,
    begin_end,
    constant,
    is_weight,
    operator,
    tensor,
)


@operator("Conv")
def _conv(
    x: Value, weight: Value, bias: Value = None, *, kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (), pads: Sequence[int] = (), dilations: Sequence[int] = (),
    group: int = 1,
) -> Value:  # fmt: skip
    ones = _ones(weight)
    given, image = begin_end(pads or [0, 0] * len(ones)), tensor(x)
    if any(begin != end for begin, end in given):
        image = functional.pad(image, [n for pair in reversed(given) for n in pair])
        given = [(0, 0)] * len(given)
    padding = [begin for begin, _ in given]
    kernel, added = tensor(weight), None if bias is None else tensor(bias)
    convolve = functional.conv1d if len(ones) == 1 else functional.conv2d
    steps, gaps = list(strides or ones), list(dilations or ones)
    return convolve(image, kernel, added, steps, padding, gaps, group)


def _ones(weight: Value) -> list[int]:
    """Return 1 for each axis of a kernel, which may have one or two."""
    axes = tensor(weight).ndim - 2
    if axes not in {1, 2}:
        raise Unreadable(f"its kernel has {axes} axes, expected 1 or 2")
    return [1] * axes


@operator("ConvTranspose")
def _conv_transpose(
    x: Value, weight: Value, bias: Value = None, *, kernel_shape: Sequence[int] = (),
    strides: Sequence[int] = (), pads: Sequence[int] = (), group: int = 1,
    dilations: Sequence[int] = (), output_padding: Sequence[int] = (),
) -> Value:  # fmt: skip
    ones = _ones(weight)
    given = begin_end(pads or [0, 0] * len(ones))
    if any(begin != end for begin, end in given):
        raise Unreadable(f"padding {list(pads)}")
    padding, added = [begin for begin, _ in given], None if bias is None else tensor(bias)
    convolve = functional.conv_transpose1d if len(ones) == 1 else functional.conv_transpose2d
    return convolve(
        tensor(x), tensor(weight), added, list(strides or ones), padding,
        list(output_padding or [0] * len(ones)), group, list(dilations or ones),
    )  # fmt: skip


@operator("BatchNormalization")
def _batch_norm(
    x: Value, weight: Value, bias: Value, mean: Value, variance: Value, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0, spatial: int = 1,
) -> Value:  # fmt: skip
    if training_mode or not spatial:
        raise Unreadable("it takes statistics of the batch, or of each place")
    return functional.batch_norm(
        tensor(x), tensor(mean), tensor(variance), tensor(weight), tensor(bias), eps=epsilon
    )


@operator("Gemm")
def _gemm(
    a: Value, b: Value, c: Value = None, *, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Value:  # fmt: skip
    if transA:
        raise Unreadable(f"transA {transA}")
    matrix = tensor(b) if transB else tensor(b).t()
    matrix = matrix if alpha == 1 else matrix * alpha
    added = None if c is None else tensor(c)
    return functional.linear(
        tensor(a), matrix, added if added is None or beta == 1 else added * beta
    )


@operator("MatMul")
def _matmul(a: Value, b: Value) -> Value:
    if isinstance(a, Probabilities):
        return a.attend(tensor(b))
    left, right = tensor(a), tensor(b)
    if is_weight(b) and right.ndim == 2:
        return MatrixProduct(left, right)
    if left.ndim >= 3 and left.ndim == right.ndim:
        return Scores(left, right)
    return left @ right


@operator("Softmax")
def _softmax(x: Value, *, axis: int = -1) -> Value:
    if isinstance(x, Scores) and axis in {-1, x.q.ndim - 1}:
        return Probabilities(x)
    return torch.softmax(tensor(x), axis)


@operator("Attention")
def _attention(
    q: Value, k: Value, v: Value, mask: Value = None, *more: Value, scale: float | None = None,
    q_num_heads: int = 0, kv_num_heads: int = 0, is_causal: int = 0,
) -> Value:  # fmt: skip
    if any(value is not None for value in more):
        raise Unreadable("it keeps keys of earlier calls")
    query, key, value = tensor(q), tensor(k), tensor(v)
    flat = query.ndim == 3
    if flat:
        query = _heads(query, q_num_heads)
        key, value = _heads(key, kv_num_heads), _heads(value, kv_num_heads)
    y = functional.scaled_dot_product_attention(
        query, key, value, None if mask is None else tensor(mask), is_causal=bool(is_causal),
        scale=scale, enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return y.transpose(1, 2).flatten(2) if flat else y


def _heads(x: Tensor, heads: int) -> Tensor:
    """Return (B, tokens, heads * depth) as (B, heads, tokens, depth)."""
    return x.reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


@operator("InstanceNormalization")
def _instance_norm(x: Value, weight: Value, bias: Value, *, epsilon: float = 1e-5) -> Value:
    alike = all(
        isinstance(value, np.ndarray) and bool((value == plain).all())
        for value, plain in ((weight, 1), (bias, 0))
    )
    if isinstance(x, Regrouped) and alike:
        return GroupNormed(x.x, x.groups, epsilon, apart=True)
    image = tensor(x)
    return functional.group_norm(image, int(image.shape[1]), tensor(weight), tensor(bias), epsilon)


@operator("GroupNormalization")
def _group_norm(
    x: Value, weight: Value, bias: Value, *, num_groups: int, epsilon: float = 1e-5
) -> Value:
    image, factors, summands = tensor(x), tensor(weight), tensor(bias)
    if factors.shape[0] != image.shape[1]:  # before opset 21: one for each group
        each = int(image.shape[1]) // num_groups
        factors, summands = (v.repeat_interleave(each) for v in (factors, summands))
    return functional.group_norm(image, num_groups, factors, summands, epsilon)


@operator("LayerNormalization")
def _layer_norm(
    x: Value, weight: Value, bias: Value = None, *, axis: int = -1, epsilon: float = 1e-5
) -> Value:
    values, added = tensor(x), None if bias is None else tensor(bias)
    shape = [int(n) for n in values.shape[axis:]]
    return functional.layer_norm(values, shape, tensor(weight), added, epsilon)


@operator("RMSNormalization")
def _rms_norm(x: Value, weight: Value, *, axis: int = -1, epsilon: float = 1e-5) -> Value:
    values = tensor(x)
    shape = [int(n) for n in values.shape[axis:]]
    return functional.rms_norm(values, shape, tensor(weight), epsilon)


@operator("AveragePool")
def _average_pool(
    x: Value, *, kernel_shape: Sequence[int], strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0), ceil_mode: int = 0, count_include_pad: int = 0,
) -> Value:  # fmt: skip
    if len(kernel_shape) != 2:
        raise Unreadable(f"its windows have {len(kernel_shape)} axes, expected 2")
    given = begin_end(pads)
    alike = all(begin == end for begin, end in given)
    if not alike or any(2 * n > k for (n, _), k in zip(given, kernel_shape, strict=True)):
        raise Unreadable(f"padding {list(pads)} of windows {list(kernel_shape)}")
    return functional.avg_pool2d(
        tensor(x), list(kernel_shape), list(strides), [begin for begin, _ in given],
        bool(ceil_mode), bool(count_include_pad),
    )  # fmt: skip


@operator("GlobalAveragePool")
def _global_average_pool(x: Value) -> Value:
    if (axes := tensor(x).ndim - 2) != 2:
        raise Unreadable(f"its image has {axes} axes, expected 2")
    return functional.adaptive_avg_pool2d(tensor(x), 1)


@operator("Resize")
def _resize(
    x: Value, roi: Value = None, scales: Value = None, sizes: Value = None, *,
    mode: bytes = b"nearest", coordinate_transformation_mode: bytes = b"half_pixel",
    nearest_mode: bytes = b"round_prefer_floor",
) -> Value:  # fmt: skip
    repeats = {  # a pixel twice, if both sides are doubled
        (b"asymmetric", b"floor"), (b"half_pixel", b"round_prefer_floor"),
        (b"half_pixel", b"round_prefer_ceil"),
    }  # fmt: skip
    if mode != b"nearest" or (coordinate_transformation_mode, nearest_mode) not in repeats:
        raise Unreadable(
            f"{mode.decode()} by {coordinate_transformation_mode.decode()}, {nearest_mode.decode()}"
        )
    image = tensor(x)
    before = list(image.shape)
    if scales is not None and constant(scales).size:
        factors = constant(scales).tolist()  # one near 2 may double too, and repeats other pixels
        if factors != [1, 1, 2, 2]:
            raise Unreadable(f"it resizes by {factors}, expected [1, 1, 2, 2]")
    else:
        after = integers(constant(sizes))
        if after != [*before[:2], *(2 * n for n in before[2:])]:
            raise Unreadable(f"it makes {after} of {before}")
    return functional.interpolate(image, scale_factor=2.0, mode="nearest")
