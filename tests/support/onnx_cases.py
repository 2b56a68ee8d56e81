"""Small ONNX models, operator by operator, with the calls of torch that they should become."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper, parser

RNG = np.random.default_rng(0)
SHAPE = (4, 6, 6)


def normal(*shape: int) -> NDArray[np.float32]:
    return RNG.standard_normal(shape).astype(np.float32)


def ints(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def scalar(value: float) -> NDArray[np.float32]:
    return np.array(value, np.float32)


@dataclass
class Case:
    """Nodes that map x (B, 4, 6, 6) and t (B,) to ``output``."""

    text: str
    weights: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    calls: frozenset[str] | None = None  # of torch, at most, beside moving data
    opset: int = 23
    atol: float = 1e-5

    def model(self) -> onnx.ModelProto:
        text = f"""
            <ir_version: 10, opset_import: ["" : {self.opset}]>
            denoiser (float[batch, 4, 6, 6] x, float[batch] t) => (float[batch, c, h, w] output)
            {{ {self.text} }}
        """
        model = parser.parse_model(text)
        model.graph.initializer.extend(
            numpy_helper.from_array(array, name) for name, array in self.weights.items()
        )
        return model


def only(*names: str) -> frozenset[str]:
    return frozenset(names)


GELU = """
    ratio = Div (x, root) <FROM>
    share = Erf (ratio)
    twice = Add (share, one)
"""
GROUP_NORM = """
    parts = Reshape (x, apart)
    normed = InstanceNormalization <epsilon = 0.001> (parts, ones, zeros)
    size = Shape (x)
    joined = Reshape (normed, size)
"""
GROUPS = {
    "apart": ints(0, 2, -1), "ones": np.ones(2, np.float32), "zeros": np.zeros(2, np.float32),
    "gamma": normal(4, 1, 1), "beta": normal(4, 1, 1),
}  # fmt: skip
TOKENS = """
    flat = Reshape (x, as_tokens)
    tokens = Transpose <perm = [0, 2, 1]> (flat)
"""
IMAGE = """
    back = Transpose <perm = [0, 2, 1]> (y)
    output = Reshape (back, as_image)
"""
PLACES = {"as_tokens": ints(0, 4, 36), "as_image": ints(0, 4, 6, 6)}
NINE = """
    mean = ReduceMean <axes = [-1]> (tokens)
    centred = Sub (tokens, mean)
    squares = Pow (centred, two)
    variance = ReduceMean <axes = [-1]> (squares)
    above = Add (variance, epsilon)
    deviation = Sqrt (above)
    ratio = Div (centred, deviation)
"""
NUMBERS = {"two": scalar(2), "epsilon": scalar(0.01)}
HEADS = """
    apart = Reshape (tokens, by_head)
    heads = Transpose <perm = [0, 2, 1, 3]> (apart)
"""
JOIN = """
    together = Transpose <perm = [0, 2, 1, 3]> (each)
    y = Reshape (together, by_token)
"""
PADS = {"p": ints(0, 0, 2, 1, 0, 0, 1, 0)}
BY_HEAD = {**PLACES, "by_head": ints(0, 36, 2, 2), "by_token": ints(0, 36, 4)}

CASES = {
    "conv": Case("output = Conv <pads = [1, 1, 1, 1]> (x, w, b)",
                 {"w": normal(5, 4, 3, 3), "b": normal(5)}, only("conv2d")),
    "conv, stride 2, one side padded": Case(
        "output = Conv <pads = [0, 0, 1, 1], strides = [2, 2]> (x, w)", {"w": normal(5, 4, 3, 3)}),
    "conv transpose": Case("output = ConvTranspose <strides = [2, 2]> (x, w, b)",
                           {"w": normal(4, 3, 2, 2), "b": normal(3)}),
    "conv in one axis": Case(
        "rows = Reshape (x, flat) y = Conv <pads = [1, 1], strides = [2]> (rows, w, b) "
        "z = ConvTranspose <strides = [2]> (y, v) output = Reshape (z, image)",
        {"w": normal(5, 4, 3), "b": normal(5), "v": normal(5, 4, 2), "flat": ints(0, 4, 36),
         "image": ints(0, 4, 6, 6)}),
    "conv transpose 4, 2, 1": Case(
        "output = ConvTranspose <strides = [2, 2], pads = [1, 1, 1, 1]> (x, w)",
        {"w": normal(4, 3, 4, 4)}),
    "groups": Case("output = Conv <group = 2> (x, w)", {"w": normal(6, 2, 3, 3)}),
    "batch norm": Case("output = BatchNormalization (x, w, b, m, v)",
                       {name: abs(normal(4)) for name in "wbmv"}),
    "activations": Case(
        """a = Mish (x) b = LeakyRelu <alpha = 0.2> (a) c = PRelu (b, w) d = HardSwish (c)
        e = HardSigmoid <alpha = 0.25> (d) output = Abs (e)""", {"w": normal(4, 1, 1)}),
    "space to depth and back": Case(
        "y = SpaceToDepth <blocksize = 2> (x) output = DepthToSpace <blocksize = 2> (y)"),
    "depth to space of columns first": Case(
        'output = DepthToSpace <blocksize = 2, mode = "CRD"> (x)'),
    "reflected": Case('output = Pad <mode = "reflect"> (x, p)', PADS),
    "repeated": Case('output = Pad <mode = "edge"> (x, p)', PADS),
    "wrapped": Case('output = Pad <mode = "wrap"> (x, p)', PADS),
    "Gemm with factors": Case(
        "flat = Flatten (x) output = Gemm <alpha = 0.5, beta = 2.0, transB = 1> (flat, w, b)",
        {"w": normal(7, 144), "b": normal(7)}),
    "group norm": Case(GROUP_NORM + "scaled = Mul (gamma, joined) output = Add (scaled, beta)",
                       GROUPS, only("group_norm")),
    "group norm, then SiLU": Case(
        GROUP_NORM + """scaled = Mul (joined, gamma) y = Add (scaled, beta)
        gate = Sigmoid (y) output = Mul (y, gate)""", GROUPS, only("group_norm", "silu")),
    "group norm without weights": Case(GROUP_NORM + "output = Identity (joined)", GROUPS,
                                       only("group_norm")),
    "group norm with a factor alone": Case(
        GROUP_NORM + "scaled = Mul (joined, gamma) output = Exp (scaled)", GROUPS,
        only("group_norm", "exp")),
    "groups that something else reads": Case(
        "parts = Reshape (x, apart) y = Exp (parts) output = Reshape (y, as_image)",
        {**GROUPS, **PLACES}),
    "a normalised whole that is used as groups": Case(
        """parts = Reshape (x, apart) normed = InstanceNormalization (parts, ones, zeros)
        y = Exp (normed) output = Reshape (y, as_image)""", {**GROUPS, **PLACES}),
    "instance norm": Case("output = InstanceNormalization (x, w, b)",
                          {"w": normal(4), "b": normal(4)}, only("group_norm")),
    "instance norm of ones": Case("output = InstanceNormalization (x, w, b)",
                                  {"w": np.ones(4, np.float32), "b": np.zeros(4, np.float32)}),
    "GroupNormalization": Case("output = GroupNormalization <num_groups = 2> (x, w, b)",
                               {"w": normal(4), "b": normal(4)}, only("group_norm")),
    "GroupNormalization of opset 18": Case(
        "output = GroupNormalization <num_groups = 2> (x, w, b)",
        {"w": normal(2), "b": normal(2)}, opset=18),
    "SiLU": Case("gate = Sigmoid (x) output = Mul (gate, x)", {}, only("silu")),
    "sigmoid of something else": Case("gate = Sigmoid (x) up = Exp (x) output = Mul (gate, up)"),
    "GELU of five operators": Case(
        GELU.replace("<FROM>", "") + "whole = Mul (x, twice) output = Mul (whole, half)",
        {"root": scalar(2**0.5), "one": scalar(1), "half": scalar(0.5)}, only("gelu")),
    "GELU": Case("output = Gelu (x)", {}, only("gelu")),
    "GELU by tanh": Case('output = Gelu <approximate = "tanh"> (x)', {}, only("gelu")),
    "an error function": Case("output = Erf (x)"),
    "attention of three operators": Case(
        TOKENS + HEADS + """keys = Transpose <perm = [0, 1, 3, 2]> (heads)
        scores = MatMul (heads, keys) scaled = Mul (scores, scale)
        p = Softmax <axis = -1> (scaled) each = MatMul (p, heads)""" + JOIN + IMAGE,
        {**BY_HEAD, "scale": scalar(0.5)}, only("scaled_dot_product_attention")),
    "attention whose scores are divided": Case(
        TOKENS + """keys = Transpose <perm = [0, 2, 1]> (tokens)
        scores = MatMul (tokens, keys) scaled = Div (scores, root)
        p = Softmax (scaled) y = MatMul (p, tokens)""" + IMAGE,
        {**PLACES, "root": scalar(2)}, only("scaled_dot_product_attention")),
    "attention by baddbmm": Case(
        TOKENS + """keys = Transpose <perm = [0, 2, 1]> (tokens)
        scores = MatMul (tokens, keys) scaled = Mul (scores, scale)
        size = Shape (x) rows = Slice (size, zero, one) all = Concat <axis = 0> (rows, places)
        filled = ConstantOfShape (all) nothing = Mul (filled, zero_factor)
        more = Add (scaled, nothing) exact = Cast <to = 1> (more) p = Softmax (exact)
        same = Cast <to = 1> (p)
        y = MatMul (same, tokens)""" + IMAGE,
        {**PLACES, "scale": scalar(0.5), "zero": ints(0), "one": ints(1), "places": ints(36, 36),
         "zero_factor": scalar(0)}, only("scaled_dot_product_attention")),
    "scores that are shifted": Case(
        TOKENS + """keys = Transpose <perm = [0, 2, 1]> (tokens) scores = MatMul (tokens, keys)
        shifted = Add (scores, one) p = Softmax (shifted) y = MatMul (p, tokens)""" + IMAGE,
        {**PLACES, "one": scalar(1)}),
    "Attention": Case(TOKENS + HEADS + "each = Attention <scale = 0.25> (heads, heads, heads)"
                      + JOIN + IMAGE, BY_HEAD, only("scaled_dot_product_attention")),
    "Attention of joined heads": Case(
        TOKENS + """y = Attention <q_num_heads = 2, kv_num_heads = 2> (tokens, tokens, tokens)"""
        + IMAGE, PLACES, only("scaled_dot_product_attention")),
    "linear": Case(TOKENS + "product = MatMul (tokens, w) y = Add (b, product)" + IMAGE,
                   {**PLACES, "w": normal(4, 4), "b": normal(4)}, only("linear")),
    "linear without bias": Case(TOKENS + "y = MatMul (tokens, w)" + IMAGE,
                                {**PLACES, "w": normal(4, 4)}, only("linear")),
    "Gemm": Case("flat = Flatten (x) y = Gemm <transB = 1> (flat, w, b) output = Reshape (y, s)",
                 {"w": normal(8, 144), "b": normal(8), "s": ints(0, 2, 2, 2)}, only("linear")),
    "Gemm, not transposed": Case("flat = Flatten (x) y = Gemm (flat, w) output = Reshape (y, s)",
                                 {"w": normal(144, 8), "s": ints(0, 2, 2, 2)}),
    "layer norm": Case(TOKENS + "y = LayerNormalization <epsilon = 0.01> (tokens, w, b)" + IMAGE,
                       {**PLACES, "w": normal(4), "b": normal(4)}, only("layer_norm")),
    "layer norm of nine operators": Case(
        TOKENS + NINE + "scaled = Mul (ratio, w) y = Add (scaled, b)" + IMAGE,
        {**PLACES, **NUMBERS, "w": normal(4), "b": normal(4)}, only("layer_norm"), opset=14),
    "layer norm without weights": Case(
        TOKENS + NINE + "y = Exp (ratio)" + IMAGE, {**PLACES, **NUMBERS},
        only("layer_norm", "exp"), opset=14),
    "a variance": Case(
        TOKENS + NINE + "y = Mul (tokens, variance)" + IMAGE, {**PLACES, **NUMBERS}, opset=14),
    "RMS norm": Case(TOKENS + "y = RMSNormalization (tokens, w)" + IMAGE,
                     {**PLACES, "w": normal(4)}),
    "upsampling by factors": Case(
        """output = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric",
        nearest_mode = "floor"> (x, , scales)""",
        {"scales": np.array([1, 1, 2, 2], np.float32)}, only("upsample_nearest2d")),
    "upsampling to a size": Case(
        """size = Shape (x) part = Slice (size, zero, two) both = Concat <axis = 0> (part, sides)
        output = Resize <mode = "nearest"> (x, , , both)""",
        {"zero": ints(0), "two": ints(2), "sides": ints(12, 12)}),
    "a dropout": Case("output = Dropout (x)"),
    "padding": Case("output = Pad (x, pads)", {"pads": ints(0, 0, 1, 0, 0, 0, 2, 3)}),
    "padding of some axes": Case("output = Pad (x, pads, , axes)",
                                 {"pads": ints(1, 0, 2, 3), "axes": ints(-2, 3)}),
    "average": Case("output = AveragePool <kernel_shape = [2, 2], strides = [2, 2]> (x)", {},
                    only("avg_pool2d")),
    "average, padded": Case("""output = AveragePool <kernel_shape = [3, 4], strides = [2, 3],
                            pads = [1, 0, 1, 0], ceil_mode = 1> (x)"""),
    "average that counts its padding": Case("""output = AveragePool <kernel_shape = [3, 2],
                                            pads = [1, 1, 1, 1], count_include_pad = 1> (x)"""),
    "average of an image": Case("output = GlobalAveragePool (x)", {}, only("adaptive_avg_pool2d")),
    "split, swapped and joined": Case(
        "a, b = Split <axis = 1> (x, sizes) output = Concat <axis = 1> (b, a)",
        {"sizes": ints(1, 3)}),
    "split into equal parts": Case(
        "a, b = Split <axis = 1, num_outputs = 2> (x) output = Mul (a, b)"),
    "slice": Case("output = Slice (x, starts, ends, axes, steps)",
                  {"starts": ints(1, -4), "ends": ints(2**62, -1), "axes": ints(1, 3),
                   "steps": ints(2, 1)}),
    "one of many": Case("part = Gather <axis = 1> (x, i) output = Unsqueeze (part, axes)",
                        {"i": np.array(-1, np.int64), "axes": ints(1)}),
    "some of many": Case("output = Gather <axis = 1> (x, i)", {"i": ints(3, 0, 0)}),
    "an axis that comes and goes": Case(
        "more = Unsqueeze (x, axes) output = Squeeze (more, axes)", {"axes": ints(0, 3)}),
    "time": Case(
        """rounded = Round (t) labels = Cast <to = 7> (rounded) back = Cast <to = 1> (labels)
        column = Reshape (back, s) angle = Mul (column, w) a = Sin (angle) b = Cos (angle)
        both = Concat <axis = 1> (a, b) y = Unsqueeze (both, axes) output = Add (x, y)""",
        {"s": ints(-1, 1), "w": normal(1, 2), "axes": ints(2, 3)}),
    "times that are whole numbers": Case(
        """rounded = Round (t) times = Cast <to = 7> (rounded) size = Shape (x)
        rows = Slice (size, zero, one) ones = ConstantOfShape <value: tensor = int64[1] {1}> (rows)
        all = Mul (times, ones) column = Unsqueeze (all, axes) more = Add (column, one)
        back = Cast <to = 1> (more) y = Mul (x, back) output = Neg (y)""",
        {"zero": ints(0), "one": ints(1), "axes": ints(1, 2, 3)},
        only("round", "mul", "add", "neg", "full", "lift_fresh_copy")),
    "whole numbers that are divided": Case(
        """rounded = Round (t) times = Cast <to = 7> (rounded) half = Div (times, two)
        back = Cast <to = 1> (half) column = Reshape (back, s) output = Mul (x, column)""",
        {"two": ints(2), "s": ints(-1, 1, 1, 1)}),
    "labels": Case(
        """rounded = Round (t) labels = Cast <to = 7> (rounded) row = Gather (table, labels)
        y = Unsqueeze (row, axes) output = Add (x, y)""",
        {"table": normal(9, 4), "axes": ints(2, 3)}),
    "a constant for each row": Case(
        """size = Shape (x) rows = Slice (size, zero, one) all = Concat <axis = 0> (rows, rest)
        wide = Expand (row, all) output = Add (x, wide)""",
        {"zero": ints(0), "one": ints(1), "rest": ints(4, 6, 6), "row": normal(1, 4, 1, 1)}),
    "filled for each row": Case(
        """size = Shape (x) filled = ConstantOfShape <value: tensor = float[1] {2.5}> (size)
        output = Add (x, filled)"""),
    "a reshape by arithmetic": Case(
        """size = Shape (x) b = Gather (size, i0) c = Gather (size, i1) less = Div (c, two)
        b1 = Unsqueeze (b, axis) c1 = Unsqueeze (less, axis)
        target = Concat <axis = 0> (b1, two1, c1, rest) y = Reshape (x, target)
        output = Reshape (y, as_image)""",
        {"i0": np.array(0, np.int64), "i1": np.array(1, np.int64), "two": np.array(2, np.int64),
         "axis": ints(0), "two1": ints(2), "rest": ints(-1), **PLACES}),
    "constants in nodes": Case(
        """half = Constant <value_float = 0.5> () one = Constant <value: tensor = float {1.0}> ()
        sum = Add (half, one) table = Constant <value_floats = [1.0, 2.0, 3.0, 4.0]> ()
        s = Constant <value_ints = [1, 4, 1, 1]> () w = Reshape (table, s)
        y = Mul (x, w) output = Add (y, sum)"""),
    "elementwise": Case(
        """a = Abs (x) b = Add (a, one) c = Sqrt (b) d = Log (b) e = Reciprocal (b) f = Sub (c, d)
        g = Max (f, e) h = Min (g, x) i = Tanh (h) j = Neg (i) k = Relu (j) l = Pow (k, two)
        m = Clip (l, low, high) output = Div (m, two)""",
        {"one": scalar(1), "two": scalar(2), "low": scalar(0.1), "high": scalar(0.4)}),
    "a weight that is also looked at": Case(  # an exporter keeps equal ones once
        """parts = Reshape (x, apart) normed = InstanceNormalization (parts, ones, zeros)
        joined = Reshape (normed, as_image) last = Transpose <perm = [0, 2, 3, 1]> (joined)
        scaled = Mul (last, ones) y = Add (scaled, zeros)
        output = Transpose <perm = [0, 3, 1, 2]> (y)""",
        {"apart": ints(0, 4, -1), "ones": np.ones(4, np.float32), "zeros": np.zeros(4, np.float32),
         **PLACES}),
    "labels moved by a number": Case(
        """rounded = Round (t) labels = Cast <to = 7> (rounded) moved = Add (one, labels)
        there = Cast <to = 6> (moved) whole = Cast <to = 7> (there)
        row = Gather (table, whole) y = Unsqueeze (row, axes) output = Add (x, y)""",
        {"table": normal(9, 4), "axes": ints(2, 3), "one": np.array(1, np.int64)}),
    "a negative whole number divided": Case(
        """halved = Div (seven, two) q = Cast <to = 1> (halved) output = Add (x, q)""",
        {"seven": ints(-7), "two": ints(2)}),
    "no bounds": Case("output = Clip (x)"),
    "half precision inside": Case("low = Cast <to = 10> (x) output = Cast <to = 1> (low)",
                                  atol=2e-3),
    "einsum": Case('output = Einsum <equation = "nchw->nhcw"> (x)'),
}  # fmt: skip
