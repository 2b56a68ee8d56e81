"""Operators that have kernels: convolutions, linear layers, norms, attention, embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from fastdiff.denoisers.network.nodes import Attention, Conv, Gather, GroupNorm, LayerNorm, Step
from fastdiff.denoisers.network.reader import Reader
from fastdiff.denoisers.network.results import Doubled, Padded, Result, operator
from fastdiff.denoisers.network.views import View


def _pair(value: int | Sequence[int]) -> tuple[int, int]:
    values = [value] if isinstance(value, int) else list(value)
    return (values[0], values[-1])


@operator("conv2d.default")
def _conv2d(
    r: Reader,
    x: View | Padded | Doubled,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> View:
    down, across = _pair(stride)
    if groups != 1 or _pair(dilation) != (1, 1) or down != across:
        raise r.refuse(f"groups {groups}, dilation {dilation}, stride {stride}")
    top, left = _pair(padding)
    bottom, right = top, left
    if isinstance(x, Padded):
        top, left = top + x.top, left + x.left
        bottom, right = bottom + x.bottom, right + x.right
    inner = x.view if isinstance(x, (Padded, Doubled)) else x
    pixels = r.pixels(inner)
    height, width = (2 * n if isinstance(x, Doubled) else n for n in pixels.shape[:2])
    kernel = (int(weight.shape[2]), int(weight.shape[3]))
    size = (
        (height + top + bottom - kernel[0]) // down + 1,
        (width + left + right - kernel[1]) // down + 1,
    )
    y = r.emit(
        Conv(
            r.scope(), pixels, View.of("", (*size, weight.shape[0])),
            r.weight(weight), r.vector(bias, int(weight.shape[0])),
            kernel, down, (top, left), isinstance(x, Doubled),
        )
    )  # fmt: skip
    return y.permute((2, 0, 1))


@operator("linear.default")
def _linear(r: Reader, x: View, weight: Tensor, bias: Tensor | None = None) -> View:
    rows = r.rows(x)
    x_pixels = r.reshape(rows, (1, *rows.shape))
    y = View.of("", (1, rows.shape[0], weight.shape[0]))
    name = r.weight(weight, shape=(*weight.shape, 1, 1))
    out = r.emit(Conv(r.scope(), x_pixels, y, name, r.vector(bias, int(weight.shape[0]))))
    return r.reshape(out, (*x.shape[:-1], int(weight.shape[0])))


@operator("conv_transpose2d.input")
def _conv_transpose2d(
    r: Reader,
    x: View,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    output_padding: int | Sequence[int] = 0,
    groups: int = 1,
    dilation: int | Sequence[int] = 1,
) -> View:
    """Read one whose kernel is its stride: a linear layer to the pixels that each one becomes."""
    channels, out_channels, down, across = (int(n) for n in weight.shape)
    plain = groups == 1 and _pair(dilation) == (1, 1) and _pair(padding) == (0, 0)
    if not plain or _pair(stride) != (down, across) or _pair(output_padding) != (0, 0):
        raise r.refuse(f"kernel {(down, across)}, stride {stride}, padding {padding}")
    pixels = r.pixels(x)
    height, width = pixels.shape[:2]
    matrix = weight.permute(2, 3, 1, 0).reshape(-1, channels, 1, 1)
    name = r.weight(matrix, r.label("pixels.weight"))
    biases = None if bias is None else r.weight(bias.repeat(down * across), r.label("pixels.bias"))
    y = View.of("", (height, width, matrix.shape[0]))
    apart = r.emit(Conv(r.scope(), pixels, y, name, biases))
    apart = r.reshape(apart, (height, width, down, across, out_channels))
    image = r.copy(apart.permute((0, 2, 1, 3, 4)), "depth_to_space")
    return r.reshape(image, (height * down, width * across, out_channels)).permute((2, 0, 1))


@operator("group_norm.default")
def _group_norm(
    r: Reader,
    x: View,
    groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = False,
) -> View:
    if r.image_shape(r.node.all_input_nodes[0])[1] != 1:
        raise r.refuse("it normalises parts of a batch")
    axes = [*range(1, len(x.shape)), 0]
    last = x.permute(axes)
    rows = r.rows(last)
    gamma, beta = (r.vector(w, rows.shape[1]) for w in (weight, bias))
    y = r.emit(GroupNorm(r.scope(), rows, View.of("", rows.shape), groups, eps, gamma, beta))
    return r.reshape(y, last.shape).permute((len(axes) - 1, *range(len(axes) - 1)))


@operator("layer_norm.default")
def _layer_norm(
    r: Reader,
    x: View,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = False,
    centred: bool = True,
) -> View:
    if len(normalized_shape) != 1:
        raise r.refuse(f"it normalises over {len(normalized_shape)} axes, the kernel over one")
    rows = r.rows(x)
    gamma, beta = (r.vector(w, rows.shape[1]) for w in (weight, bias))
    y = r.emit(LayerNorm(r.scope(), rows, View.of("", rows.shape), eps, gamma, beta, centred))
    return r.reshape(y, x.shape)


@operator("rms_norm.default")
def _rms_norm(
    r: Reader,
    x: View,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> View:
    eps = 2.0**-23 if eps is None else eps  # torch takes the float32 epsilon
    return _layer_norm(r, x, normalized_shape, weight, None, eps, centred=False)


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


@operator("embedding.default")
def _embedding(
    r: Reader,
    table: Tensor,
    labels: View,
    padding_idx: int = -1,  # as the two below: for gradients alone
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> View:
    if labels.numel != 1:
        raise r.refuse(f"expected one label for an image, got {labels.shape}")
    rows = labels.reshape(())
    if rows is None:
        raise r.refuse()
    y = r.emit(Gather(r.scope(), rows, r.weight(table), View.of("", (int(table.shape[1]),))))
    return r.reshape(y, (*labels.shape, int(table.shape[1])))


@operator("avg_pool2d.default")
def _avg_pool2d(
    r: Reader,
    x: View,
    kernel: int | Sequence[int],
    stride: int | Sequence[int] = (),
    padding: int | Sequence[int] = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,  # nothing is padded
    divisor_override: int | None = None,
) -> View:
    down, across = _pair(kernel)
    if (
        (stride and _pair(stride) != (down, across))
        or _pair(padding) != (0, 0)
        or down * across > 4
    ):
        raise r.refuse(f"kernel {kernel}, stride {stride}, padding {padding}")
    height, width = (n // k * k for n, k in zip(x.shape[-2:], (down, across), strict=True))
    if ceil_mode and (height, width) != x.shape[-2:]:
        raise r.refuse("ceil_mode counts pixels outside the image")
    taps: list[View | float] = [
        x.slice(-2, i, height, down).slice(-1, j, width, across)
        for i in range(down)
        for j in range(across)
    ]
    return r.elementwise("avg_pool", taps, _mean_of(len(taps), divisor_override or len(taps)))


def _mean_of(count: int, divisor: int) -> list[Step]:
    """Return the program for the sum of `count` inputs, added in order, by `divisor`."""
    program: list[Step] = []
    total = 0
    for index in range(1, count):
        program.append(("add", total, index, 0.0))
        total = count + len(program) - 1
    program.append(("constant", 0, 0, 1 / divisor))
    program.append(("multiply", total, count + len(program) - 1, 0.0))
    return program


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
