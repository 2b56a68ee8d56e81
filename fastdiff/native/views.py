"""Strided views: where the elements of a per-image tensor lie in a buffer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

Shape = tuple[int, ...]


def dense(shape: Sequence[int]) -> Shape:
    """Return the strides of a contiguous tensor of `shape`; axes of one element have 0."""
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step if size > 1 else 0)
        step *= size
    return tuple(reversed(strides))


@dataclass(frozen=True)
class View:
    """Element (i, j, ...) of one image is at ``offset + i * strides[0] + j * strides[1] + ...``.

    The batch is no axis of it: from image to image lies what the buffer says.

    Attributes
    ----------
    buffer : str
    offset : int
        In elements, from where the image's part of the buffer begins.
    shape, strides : tuple of int
        Of one image. Axes of one element have stride 0, so equal views compare equal; axes that
        repeat an element have stride 0 too.
    """

    buffer: str
    offset: int
    shape: Shape
    strides: Shape

    def __post_init__(self) -> None:
        strides = (step if n > 1 else 0 for n, step in zip(self.shape, self.strides, strict=True))
        object.__setattr__(self, "strides", tuple(strides))

    @classmethod
    def of(cls, buffer: str, shape: Sequence[int]) -> View:
        """Return the view of a whole contiguous buffer."""
        return cls(buffer, 0, tuple(shape), dense(shape))

    @property
    def numel(self) -> int:
        """Elements of one image, repeated ones counted."""
        return math.prod(self.shape)

    @property
    def last(self) -> int:
        """Largest address that it touches."""
        steps = (step * (n - 1) for n, step in zip(self.shape, self.strides, strict=True))
        return self.offset + sum(steps)

    @property
    def together(self) -> bool:
        """Whether the elements along the last axis lie one after the other."""
        return self.shape[-1] == 1 or self.strides[-1] == 1

    def permute(self, axes: Sequence[int]) -> View:
        """Return the view whose axis i is axis ``axes[i]`` of this one."""
        shape, strides = (tuple(part[a] for a in axes) for part in (self.shape, self.strides))
        return View(self.buffer, self.offset, shape, strides)

    def slice(self, axis: int, start: int, stop: int, step: int = 1) -> View:
        """Return elements ``start:stop:step`` of an axis, which are there."""
        shape, strides = list(self.shape), list(self.strides)
        shape[axis] = len(range(start, stop, step))
        strides[axis] *= step
        offset = self.offset + start * self.strides[axis]
        return View(self.buffer, offset, tuple(shape), tuple(strides))

    def drop(self, axis: int) -> View:
        """Return the view without an axis of one element."""
        keep = [a for a in range(len(self.shape)) if a != axis]
        return self.permute(keep)

    def expand(self, shape: Sequence[int]) -> View:
        """Return the view broadcast to `shape`, aligned at the last axis as NumPy does."""
        strides = (0,) * (len(shape) - len(self.shape)) + self.strides
        return View(self.buffer, self.offset, tuple(shape), strides)

    def reshape(self, shape: Sequence[int]) -> View | None:
        """Return the same elements in the same order as `shape`; None if no strides do that."""
        old = [(n, s) for n, s in zip(self.shape, self.strides, strict=True) if n > 1]
        strides: list[int] = []  # from the last axis to the first
        size = step = 1  # of what is left of the run of old axes that new axes are cut from
        for wanted in reversed(shape):
            if wanted == 1:
                strides.append(0)
                continue
            if size == 1:
                size, step = old.pop()
            while size % wanted or size < wanted:  # the new axis spans another old one
                if not old or old[-1][1] != size * step:
                    return None
                size *= old.pop()[0]
            strides.append(step)
            size, step = size // wanted, step * wanted
        return replace(self, shape=tuple(shape), strides=tuple(reversed(strides)))


def merge_axes(views: Sequence[View]) -> list[View]:
    """Return views of one shape with as few axes as describe all of them, in the same order."""
    axes = [a for a, size in enumerate(views[0].shape) if size > 1]
    merged = [view.permute(axes) for view in views]
    axis = len(axes) - 1
    while axis > 0:
        outer, inner = axis - 1, axis
        if all(v.strides[outer] == v.shape[inner] * v.strides[inner] for v in merged):
            merged = [
                View(
                    v.buffer,
                    v.offset,
                    (*v.shape[:outer], v.shape[outer] * v.shape[inner], *v.shape[inner + 1 :]),
                    (*v.strides[:outer], *v.strides[inner:]),
                )
                for v in merged
            ]
        axis -= 1
    return merged


def inverse(order: Sequence[int]) -> list[int]:
    """Return the axes that undo ``permute(order)``."""
    return sorted(range(len(order)), key=lambda a: order[a])


def memory_order(view: View) -> list[int]:
    """Return the axes of `view` in the order of memory; as they are if some axis is repeated."""
    axes = list(range(len(view.shape)))
    if any(n > 1 and step == 0 for n, step in zip(view.shape, view.strides, strict=True)):
        return axes
    moving = [a for a in axes if view.shape[a] > 1]
    still = [a for a in axes if view.shape[a] == 1]
    return still + sorted(moving, key=lambda a: -view.strides[a])


def see_through(view: View, y: View, source: View) -> View | None:
    """Return as a view of `source` what `view` is of y, which has its elements; None if none is.

    Parameters
    ----------
    view : View
        Of the buffer of y.
    y : View
        Every element of its buffer once, axes in any order.
    source : View
        Of the shape of y.
    """
    order = sorted(range(len(y.shape)), key=lambda axis: -y.strides[axis])
    whole, operand = merge_axes([y.permute(order), source.permute(order)])
    offset, rest = operand.offset, view.offset
    room = []  # by axes of y, from the longest steps to the shortest
    for size, step, own in zip(whole.shape, whole.strides, operand.strides, strict=True):
        begin, rest = divmod(rest, step)
        offset += begin * own
        room.append(size - 1 - begin)
    strides = []
    for size, step in zip(view.shape, view.strides, strict=True):
        axis = next((i for i, s in enumerate(whole.strides) if s <= step), None)
        if step == 0 or axis is None:
            strides.append(0)
            continue
        times, odd = divmod(step, whole.strides[axis])
        room[axis] -= times * (size - 1)
        if odd or room[axis] < 0:
            return None
        strides.append(times * operand.strides[axis])
    return View(source.buffer, offset, view.shape, tuple(strides))
