"""Operators that only say where elements lie: they become strides, and seldom a copy."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fastdiff.native.reading.padding import padded
from fastdiff.native.reading.reader import Reader
from fastdiff.native.reading.results import Doubled, Moved, Padded, Result, Rows, operator
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
    "view_as.default", "reshape_as.default", sized=True, movable=True,
)  # fmt: skip
def _reshape(r: Reader, x: View | Moved, *sizes: object) -> View | Moved:
    if isinstance(x, View):
        return r.reshape(x, r.image_shape()[0])
    shape = list(r.node.meta["val"].shape)
    batch = next(axis for axis, size in enumerate(shape) if not isinstance(size, int))
    del shape[batch]
    if math.prod(shape[:batch]) != math.prod(x.view.shape[: x.batch]):
        raise r.refuse("it takes the batch apart, or joins it to another axis")
    return x.with_view(r.reshape(x.view, tuple(shape)), batch)


@operator("permute.default", movable=True)
def _permute(r: Reader, x: View | Moved, axes: Sequence[int]) -> View | Moved:
    axes = [axis % len(axes) for axis in axes]
    if isinstance(x, View):
        _, lead = r.image_shape(r.node.all_input_nodes[0])
        if axes[0] == 0:
            return x.permute([axis - lead for axis in axes[lead:]])
        if not lead:
            raise r.refuse("it moves an axis that the batch is a factor of")
        x = Moved(x, 0)
    order = [x.axis(axis) for axis in axes if axis != x.batch]
    return x.with_view(x.view.permute(order), axes.index(x.batch))


@operator("transpose.int", "swapaxes.default", movable=True)
def _transpose(r: Reader, x: View | Moved, first: int, second: int) -> View | Moved:
    axes = list(range(len(r.node.meta["val"].shape)))
    axes[first], axes[second] = axes[second], axes[first]
    return _permute(r, x, axes)


@operator("mT.default", movable=True)
def _matrix_transpose(r: Reader, x: View | Moved) -> View | Moved:
    return _transpose(r, x, -2, -1)


@operator("movedim.int", "moveaxis.int", movable=True)
def _movedim(r: Reader, x: View | Moved, source: int, destination: int) -> View | Moved:
    rank = len(r.node.meta["val"].shape)
    axes = [axis for axis in range(rank) if axis != source % rank]
    axes.insert(destination % rank, source % rank)
    return _permute(r, x, axes)


@operator("expand.default", "expand_as.default", sized=True)
def _expand(r: Reader, x: Result, sizes: object, *, implicit: bool = False) -> View:
    view = r.operand(x)
    shape = r.image_shape()[0]
    return view.expand(shape) if isinstance(view, View) else r.filled(view, shape)


@operator("zeros_like.default", "ones_like.default")
def _zeros_or_ones(r: Reader, x: Result, **options: object) -> Result:
    return _filled(r, float("ones" in str(r.node.target)), options)


@operator("full_like.default")
def _full_like(r: Reader, x: Result, value: float, **options: object) -> Result:
    return _filled(r, value, options)


@operator("new_zeros.default", "new_ones.default", sized=True)
def _new_zeros_or_ones(r: Reader, x: Result, size: object, **options: object) -> Result:
    return _filled(r, float("ones" in str(r.node.target)), options)


@operator("new_full.default", sized=True)
def _new_full(r: Reader, x: Result, size: object, value: float, **options: object) -> Result:
    return _filled(r, value, options)


def _filled(r: Reader, value: float, options: dict[str, object]) -> View | Tensor:
    """Return one number everywhere; of the options only the type matters."""
    like = r.node.meta["val"]
    if like.dtype != torch.float32:
        raise r.refuse(f"its output is {like.dtype}, expected float32")
    if all(isinstance(size, int) for size in like.shape):
        return torch.full(tuple(like.shape), float(value))  # of no image
    return r.filled(float(value), r.image_shape()[0])


@operator("slice.Tensor", sized=True, movable=True)
def _slice(
    r: Reader,
    x: View | Moved,
    axis: int = 0,
    start: int | None = 0,
    end: int | None = None,
    step: int = 1,
) -> View | Moved:
    if r.node.meta["val"].shape == r.node.all_input_nodes[0].meta["val"].shape:
        return x
    if isinstance(start, Rows) or isinstance(end, Rows):
        raise r.refuse("it computes with the size of the batch")
    if isinstance(x, Moved):
        axis %= len(x.view.shape) + 1
        if axis == x.batch:
            raise r.refuse("it takes images out of the batch")
        place = x.axis(axis)
        begin, stop, stride = slice(start, end, step).indices(x.view.shape[place])
        return Moved(x.view.slice(place, begin, stop, stride), x.batch)
    axis = r.axis(axis)
    begin, stop, stride = slice(start, end, step).indices(x.shape[axis])
    return r.original(x.slice(axis, begin, stop, stride))


@operator("select.int", movable=True)
def _select(r: Reader, x: View | Moved, axis: int, index: int) -> View | Moved:
    if isinstance(x, Moved):
        axis %= len(x.view.shape) + 1
        if axis == x.batch:
            raise r.refuse("it takes an image out of the batch")
        return x.with_view(_taken(x.view, x.axis(axis), index), x.batch - (axis < x.batch))
    return _taken(x, r.axis(axis, r.node.all_input_nodes[0]), index)


def _taken(view: View, axis: int, index: int) -> View:
    index %= view.shape[axis]
    return view.slice(axis, index, index + 1).drop(axis)


@operator("unbind.int", movable=True)
def _unbind(r: Reader, x: View | Moved, axis: int = 0) -> tuple[View | Moved, ...]:
    source = r.node.all_input_nodes[0].meta["val"].shape
    if not isinstance(source[axis], int):
        raise r.refuse("it takes the batch apart")
    return tuple(_select(r, x, axis, index) for index in range(source[axis]))


@operator("stack.default")
def _stack(r: Reader, parts: Sequence[Result], axis: int = 0) -> View:
    axis %= len(r.node.meta["val"].shape)
    views = [r.operand(part) for part in parts if isinstance(part, (View, Tensor))]
    if axis == 0 or any(not isinstance(view, View) for view in views):
        raise r.refuse("it stacks along the batch, or a number")
    place = r.axis(axis)
    shape = r.image_shape()[0]
    thin = (*shape[:place], 1, *shape[place + 1 :])
    return r.concatenate([r.reshape(view, thin) for view in views if isinstance(view, View)], place)


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


@operator("pixel_shuffle.default")
def _pixel_shuffle(r: Reader, x: View, factor: int) -> View:
    *rest, channels, height, width = x.shape
    apart = r.reshape(x, (*rest, channels // factor**2, factor, factor, height, width))
    n = len(rest)
    moved = apart.permute([*range(n), n, n + 3, n + 1, n + 4, n + 2])
    return r.reshape(moved, r.image_shape()[0])


@operator("pixel_unshuffle.default")
def _pixel_unshuffle(r: Reader, x: View, factor: int) -> View:
    *rest, channels, height, width = x.shape
    apart = r.reshape(x, (*rest, channels, height // factor, factor, width // factor, factor))
    n = len(rest)
    moved = apart.permute([*range(n), n, n + 2, n + 4, n + 1, n + 3])
    return r.reshape(moved, r.image_shape()[0])


@operator("repeat_interleave.self_int")
def _repeat_interleave(
    r: Reader, x: View, repeats: int, axis: int | None = None, output_size: int | None = None
) -> View:
    if axis is None:
        raise r.refuse("it repeats along the batch")
    axis = r.axis(axis)
    apart = r.reshape(x, (*x.shape[: axis + 1], 1, *x.shape[axis + 1 :]))
    repeated = apart.expand((*x.shape[: axis + 1], repeats, *x.shape[axis + 1 :]))
    return r.reshape(repeated, r.image_shape()[0])


@operator("upsample_nearest1d.vec")
def _upsample_line(
    r: Reader, x: View, size: Sequence[int] | None, factors: Sequence[float] | None
) -> View:
    repeats, rest = divmod(r.image_shape()[0][-1], x.shape[-1])
    if rest or not set(factors or ()) <= {float(repeats)}:
        raise r.refuse(f"{x.shape[-1]} elements become no whole number of each")
    apart = r.reshape(x, (*x.shape, 1)).expand((*x.shape, repeats))
    return r.reshape(apart, (*x.shape[:-1], x.shape[-1] * repeats))


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
    """Return what any operator can read: a doubled or padded image in memory."""
    if isinstance(given, Doubled):
        return r.double(given.view)
    if isinstance(given, Padded):
        return padded(r, given)
    return given
