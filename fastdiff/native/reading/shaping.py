"""Operators that only say where elements lie: they become strides, and seldom a copy."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fastdiff.native.reading.reader import Reader
from fastdiff.native.reading.results import Doubled, Padded, Result, Rows, operator
from fastdiff.native.views import View


@operator("dropout.default")
def _dropout(r: Reader, x: Result, p: float, train: bool) -> Result:
    if train:
        raise r.refuse("it drops elements, as in training")
    return x


@operator(
    "clone.default", "contiguous.default", "detach.default", "alias.default",
    "to.dtype", "to.device", "to.dtype_layout", "_to_copy.default", "lift_fresh_copy.default",
)  # fmt: skip
def _same(r: Reader, x: Result, *options: object, **more: object) -> Result:
    source = r.node.all_input_nodes[0].meta["val"].dtype
    if r.node.meta["val"].dtype != source:
        raise r.refuse(f"it converts {source} to {r.node.meta['val'].dtype}")
    return x


@operator(
    "view.default", "reshape.default", "_unsafe_view.default", "flatten.using_ints",
    "unflatten.int", "unsqueeze.default", "squeeze.dim", "squeeze.dims", "squeeze.default",
    "view_as.default", "reshape_as.default", sized=True,
)  # fmt: skip
def _reshape(r: Reader, x: View, *sizes: object) -> View:
    return r.reshape(x, r.image_shape()[0])


@operator("permute.default")
def _permute(r: Reader, x: View, axes: Sequence[int]) -> View:
    rank = len(axes)
    _, lead = r.image_shape()
    if axes[0] % rank != 0:
        raise r.refuse("it moves the batch")
    return x.permute([a % rank - lead for a in axes[lead:]])


@operator("transpose.int", "swapaxes.default")
def _transpose(r: Reader, x: View, first: int, second: int) -> View:
    axes = list(range(len(x.shape)))
    a, b = r.axis(first), r.axis(second)
    axes[a], axes[b] = b, a
    return x.permute(axes)


@operator("einsum.default")
def _einsum(r: Reader, equation: str, operands: Sequence[View], *options: object) -> View:
    source, _, target = equation.replace(" ", "").partition("->")
    is_permutation = len(operands) == 1 and sorted(source) == sorted(set(target)) == sorted(target)
    if not is_permutation:
        raise r.refuse(f"{equation!r} does more than move axes")
    return _permute(r, operands[0], [source.index(letter) for letter in target])


@operator("expand.default", "expand_as.default", sized=True)
def _expand(r: Reader, x: Result, sizes: object, *, implicit: bool = False) -> View:
    view = r.operand(x)
    if not isinstance(view, View):
        raise r.refuse("it repeats a single number")
    return view.expand(r.image_shape()[0])


@operator("slice.Tensor", sized=True)
def _slice(
    r: Reader, x: View, axis: int = 0, start: int | None = 0, end: int | None = None, step: int = 1
) -> View:
    if r.node.meta["val"].shape == r.node.all_input_nodes[0].meta["val"].shape:
        return x
    axis = r.axis(axis)
    if isinstance(start, Rows) or isinstance(end, Rows):
        raise r.refuse("it computes with the size of the batch")
    begin, stop, stride = slice(start, end, step).indices(x.shape[axis])
    return r.original(x.slice(axis, begin, stop, stride))


@operator("select.int")
def _select(r: Reader, x: View, axis: int, index: int) -> View:
    axis = r.axis(axis, r.node.all_input_nodes[0])
    index %= x.shape[axis]
    return x.slice(axis, index, index + 1).drop(axis)


@operator("split.Tensor", "split_with_sizes.default", "split.sizes")
def _split(r: Reader, x: View, sizes: int | Sequence[int], axis: int = 0) -> tuple[View, ...]:
    axis = r.axis(axis, r.node.all_input_nodes[0])
    length = x.shape[axis]
    if isinstance(sizes, int):
        sizes = [min(sizes, length - begin) for begin in range(0, length, sizes)]
    begins = [sum(sizes[:index]) for index in range(len(sizes))]
    parts = (x.slice(axis, b, b + n) for b, n in zip(begins, sizes, strict=True))
    return tuple(r.original(part) for part in parts)


@operator("chunk.default")
def _chunk(r: Reader, x: View, chunks: int, axis: int = 0) -> tuple[View, ...]:
    length = x.shape[r.axis(axis, r.node.all_input_nodes[0])]
    return _split(r, x, -(-length // chunks), axis)


@operator("cat.default")
def _cat(r: Reader, parts: Sequence[Result], axis: int = 0) -> View:
    views = []
    for part in parts:
        if isinstance(part, Tensor) and not part.numel():
            continue  # torch joins nothing even where shapes differ
        view = r.operand(part) if isinstance(part, (View, Tensor)) else None
        if not isinstance(view, View):
            raise r.refuse("it joins a constant to what depends on the inputs")
        views.append(view)
    return views[0] if len(views) == 1 else r.concatenate(views, r.axis(axis))


@operator("pad.default")
def _pad(
    r: Reader, x: View, pads: Sequence[int], mode: str = "constant", value: float | None = None
) -> Result:
    if mode != "constant":
        raise r.refuse(f"{mode} padding")
    return _constant_pad(r, x, pads, value or 0.0)


@operator("constant_pad_nd.default")
def _constant_pad(r: Reader, x: View, pads: Sequence[int], value: float = 0.0) -> Result:
    if not any(pads):
        return x
    left, right, top, bottom = (*pads, 0, 0)[:4]
    if value or len(pads) > 4 or min(pads) < 0 or len(x.shape) != 3:
        raise r.refuse(f"padding {list(pads)} with {value}")
    return Padded(x, top, left, bottom, right)


@operator("upsample_nearest2d.vec")
def _upsample(
    r: Reader, x: View, size: Sequence[int] | None, factors: Sequence[float] | None
) -> Result:
    doubled = (*x.shape[:-2], *(2 * n for n in x.shape[-2:]))
    # A factor near 2 may double the sides too, and repeats other pixels.
    if len(x.shape) != 3 or r.image_shape()[0] != doubled or not set(factors or ()) <= {2.0}:
        raise r.refuse("only a doubling of both sides has a kernel")
    return Doubled(x)


def materialised(r: Reader, given: Result) -> Result:
    """Return what any operator can read: a doubled image in memory, a padded one never."""
    if isinstance(given, Doubled):
        return r.double(given.view)
    if isinstance(given, Padded):
        raise r.refuse("it reads a padded image, and only convolutions pad")
    return given
