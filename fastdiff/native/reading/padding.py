"""Padding: zeros around an image are left to the convolution that reads it, all else is memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from fastdiff.native.reading.reader import Reader
from fastdiff.native.reading.results import Padded, Result, operator
from fastdiff.native.views import View

Edge = Callable[[View, int, int, int], list[View]]
"""What stands beside a view: by it, the axis, how many elements, and the side, 0 for before."""


@operator("pad.default")
def _pad(
    r: Reader, x: View, pads: Sequence[int], mode: str = "constant", value: float | None = None
) -> Result:
    if mode == "constant":
        return _constant_pad(r, x, pads, value or 0.0)
    if mode not in _EDGES or min(pads) < 0:
        raise r.refuse(f"{mode} padding by {list(pads)}")
    return _extended(r, x, pads, _EDGES[mode])


@operator("constant_pad_nd.default")
def _constant_pad(r: Reader, x: View, pads: Sequence[int], value: float = 0.0) -> Result:
    if not any(pads):
        return x
    if len(pads) > 2 * len(x.shape):
        raise r.refuse(f"padding {list(pads)} adds images to the batch")
    for axis, before, after in _by_axis(x, pads):
        size = x.shape[axis]
        x = x.slice(axis, max(0, -before), size - max(0, -after))
    pads = [max(0, pad) for pad in pads]
    left, right, top, bottom, *more = (*pads, 0, 0, 0)
    if value == 0 and not any(more) and len(x.shape) in {2, 3} and len(pads) < 2 * len(x.shape):
        return Padded(x, top, left, bottom, right)
    return _filled(r, x, pads, value)


def padded(r: Reader, given: Padded) -> View:
    """Return a padded image in memory."""
    pads = [given.left, given.right, given.top, given.bottom]
    return _filled(r, given.view, pads[: 2 * (len(given.view.shape) - 1)], 0.0)


def _filled(r: Reader, x: View, pads: Sequence[int], value: float) -> View:
    def number(view: View, axis: int, count: int, side: int) -> list[View]:
        return [r.filled(value, (*view.shape[:axis], count, *view.shape[axis + 1 :]))]

    return _extended(r, x, pads, number)


def _extended(r: Reader, x: View, pads: Sequence[int], edge: Edge) -> View:
    """Return a copy with edges, one axis after the other, the last one first as torch has them."""
    for axis, before, after in _by_axis(x, pads):
        first = edge(x, axis, before, 0) if before else []
        last = edge(x, axis, after, 1) if after else []
        if first or last:
            x = r.concatenate([*first, x, *last], axis)
    return x


def _by_axis(x: View, pads: Sequence[int]) -> list[tuple[int, int, int]]:
    """Return (axis, before, after) for each pair, which begin at the last axis."""
    return [(len(x.shape) - 1 - i // 2, pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]


def _reflected(x: View, axis: int, count: int, side: int) -> list[View]:
    size = x.shape[axis]
    places = range(count, 0, -1) if side == 0 else range(size - 2, size - 2 - count, -1)
    return [x.slice(axis, place, place + 1) for place in places]


def _repeated(x: View, axis: int, count: int, side: int) -> list[View]:
    place = (x.shape[axis] - 1) * side
    return [x.slice(axis, place, place + 1)] * count


def _wrapped(x: View, axis: int, count: int, side: int) -> list[View]:
    size = x.shape[axis]
    return [x.slice(axis, size - count, size) if side == 0 else x.slice(axis, 0, count)]


_EDGES: dict[str, Edge] = {"reflect": _reflected, "replicate": _repeated, "circular": _wrapped}
