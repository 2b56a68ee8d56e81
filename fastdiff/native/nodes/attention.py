"""Scaled dot-product attention."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastdiff.native.algorithms import DIRECT, TILES, Algorithm
from fastdiff.native.nodes.node import Node, sizes
from fastdiff.native.reading.results import Result, operator
from fastdiff.native.views import Shape, View

if TYPE_CHECKING:
    from fastdiff.native.reading.reader import Reader
    from fastdiff.native.reference import Memory
    from fastdiff.native.running.binding import Addresses

_LANES = 16  # of the widest level: what rounds writes whole vectors


@dataclass(frozen=True)
class Attention(Node):
    """``y = softmax(q k^T scale) v``; all views are (heads, tokens, channels).

    A query whose scores are all -infinity has no shares in v: its y is 0, as torch's operator makes
    it, or NaN with `nan_without_shares`, as a softmax does.
    """

    name: str
    q: View
    k: View
    v: View
    y: View
    scale: float
    nan_without_shares: bool = False

    method: ClassVar[str] = "attention"
    algorithms: ClassVar[tuple[str, ...]] = (DIRECT, TILES)

    def fits(self, shapes: Mapping[str, Shape]) -> bool:
        (heads, queries, depth), keys = self.q.shape, self.k.shape[1]
        width = self.v.shape[2]
        alike = self.k.shape == (heads, keys, depth) and self.v.shape == (heads, keys, width)
        together = all(view.together for view in (self.q, self.k, self.v, self.y))
        return alike and together and self.y.shape == (heads, queries, width)

    def compute(self, memory: Memory) -> NDArray[Any]:
        q, k, v = (memory.view(view) for view in (self.q, self.k, self.v))
        scores = q @ np.swapaxes(k, -1, -2) * self.scale
        top = scores.max(axis=-1, keepdims=True, initial=np.finfo(np.float64).min)
        shares = np.exp(scores - top)
        least = 0.0 if self.nan_without_shares else 0.5  # the sum is 0, or 1 and more
        return np.asarray(shares / np.maximum(shares.sum(axis=-1, keepdims=True), least) @ v)

    def arguments(self, memory: Addresses, choice: Algorithm) -> dict[str, object]:
        heads, queries, depth = self.q.shape
        return {
            "q": memory.heads(self.q),
            "k": memory.heads(self.k),
            "v": memory.heads(self.v),
            "y": memory.heads(self.y),
            "images": memory.batch,
            "heads": heads,
            "queries": queries,
            "keys": self.k.shape[1],
            "depth": depth,
            "value_depth": self.v.shape[2],
            "scale": self.scale,
            "nan_without_shares": self.nan_without_shares,
            "algorithm": choice.algorithm,
        }

    @property
    def flops(self) -> int:
        """Those of both products."""
        heads, queries, depth = self.q.shape
        return 2 * heads * queries * self.k.shape[1] * (depth + self.v.shape[2])

    @property
    def shape_text(self) -> str:
        """Of the queries, and how many keys there are."""
        return f"{sizes(self.q)} on {self.k.shape[1]}"

    @property
    def roundable(self) -> View | None:
        """All heads of a token, where each has whole vectors to store."""
        heads, tokens, channels = self.y.shape
        if channels % _LANES:
            return None
        return self.y.permute((1, 0, 2)).reshape((tokens, heads * channels))


@operator("scaled_dot_product_attention.default")
def _attention(
    r: Reader,
    q: View,
    k: View,
    v: View,
    attn_mask: Result = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> View:
    if attn_mask is not None or is_causal or enable_gqa or dropout_p:
        raise r.refuse("masks, causal order, grouped heads and dropout have no kernel")
    if q.shape[:-2] != k.shape[:-2] or k.shape[:-1] != v.shape[:-1]:
        raise r.refuse(f"queries {q.shape}, keys {k.shape} and values {v.shape}")
    shape = (*q.shape[:-1], v.shape[-1])
    q, k, v = (_heads(r, view) for view in (q, k, v))
    heads, queries, depth = q.shape
    # Tokens of all heads side by side, so that the heads join for nothing.
    y = View.of("", (queries, heads, v.shape[-1])).permute((1, 0, 2))
    factor = 1 / math.sqrt(depth) if scale is None else scale
    node = Attention(r.label("attention"), q, k, v, y, factor)
    return r.reshape(r.emit(node), shape)


def _heads(r: Reader, view: View) -> View:
    """Return (heads, tokens, channels) with the channels together; one head may go unsaid."""
    if len(view.shape) == 2:
        view = r.reshape(view, (1, *view.shape))
    if len(view.shape) != 3:
        raise r.refuse(f"expected (B, heads, tokens, channels), got {view.shape} for each image")
    return view if view.together else r.copy(view, "heads")
