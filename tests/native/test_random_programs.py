"""Random programs of the operators that are read, against torch: any values, any layout."""

import math
import os
from collections import Counter
from random import Random

import torch
from aten_programs import ATEN, AtenProgram
from compared_programs import ROWS, check_program
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from planned_networks import LEVELS

from fastdiff.errors import Unavailable
from fastdiff.native import make_plan
from fastdiff.native.operations import OPERATIONS

MOST = 2048  # elements of a value, for one image
NUMBERS = [0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 3.0, -100.0, 1e-3, math.inf, -math.inf, math.nan]
UNARY = [op.torch for op in OPERATIONS.values() if op.torch] + ["relu", "reciprocal", "gelu"]
REDUCTIONS = [ATEN.sum.dim_IntList, ATEN.mean.dim, ATEN.amax.default, ATEN.amin.default]
EQUATIONS = [
    "nchw,nchv->ncwv", "nchw,ndhw->ncd", "nchw,ndhv->nvcdw", "nchw,nc->nhw", "ncw,ncw->nc",
    "ncw,ndw->ndc", "nw,nw->n", "nchw,nchw->nchw",
]  # fmt: skip
SAME = ["clone", "detach", "alias", "contiguous"]


class Grower:
    """Adds random calls to a program, each on what is there by then."""

    def __init__(self, program, random):
        self.program, self.random = program, random
        self.values = [program.nodes[name] for name in ("t", "y", "x")]

    def choose(self, among):
        return self.random.choice(among)

    def coin(self):
        return self.random.random() < 0.5

    def value(self):
        """An input or a result, mostly one of the last."""
        back = min(int(self.random.expovariate(0.7)), len(self.values) - 1)
        return self.values[-1 - back]

    def shape(self, node):
        return list(node.meta["val"].shape[1:])

    def axis(self, node):
        return self.random.randint(1, max(len(self.shape(node)), 1))

    def weight(self):
        return self.program.nodes[self.choose(["vector", "row", "column", "pixel", "image"])]

    def grow(self):
        """Append one call, or none where torch refuses it."""
        kind = self.choose(KINDS)
        try:
            node = kind(self)
        except (RuntimeError, IndexError, ValueError, TypeError):
            return
        shape = node.meta["val"].shape
        if all(isinstance(n, int) and n for n in shape[1:]) and math.prod(shape[1:]) <= MOST:
            self.values.append(node)

    def unary(self):
        return self.program.call(getattr(ATEN, self.choose(UNARY)).default, self.value())

    def gelu_tanh(self):
        return self.program.call(ATEN.gelu.default, self.value(), approximate="tanh")

    def square(self):
        return self.program.call(ATEN.pow.Tensor_Scalar, self.value(), 2)

    def binary(self):
        operands = [self.value(), self.value() if self.coin() else self.weight()]
        if self.coin():
            operands.reverse()
        name = self.choose(["add", "sub", "mul", "div", "maximum", "minimum"])
        overload = "default" if name in {"maximum", "minimum"} else "Tensor"
        return self.program.call(getattr(getattr(ATEN, name), overload), *operands)

    def with_number(self):
        name = self.choose(["add", "sub", "mul", "div", "rsub"])
        overload = "Scalar" if name == "rsub" else "Tensor"
        call = getattr(getattr(ATEN, name), overload)
        return self.program.call(call, self.value(), self.choose(NUMBERS))

    def clamp(self):
        bounds = [self.choose([None, *NUMBERS]) for _ in range(2)]
        return self.program.call(ATEN.clamp.default, self.value(), *bounds)

    def same(self):
        return self.program.call(getattr(ATEN, self.choose(SAME)).default, self.value())

    def permute(self):
        node = self.value()
        axes = self.random.sample(range(1, 1 + len(self.shape(node))), len(self.shape(node)))
        return self.program.call(ATEN.permute.default, node, [0, *axes])

    def transpose(self):
        node = self.value()
        return self.program.call(ATEN.transpose.int, node, self.axis(node), self.axis(node))

    def reshape(self):
        node = self.value()
        sizes = self.shape(node)
        at = self.axis(node) - 1
        if self.coin():  # axes joined, or one taken apart
            sizes[at : at + 2] = [math.prod(sizes[at : at + 2])]
        else:
            part = self.choose([n for n in range(1, sizes[at] + 1) if sizes[at] % n == 0])
            sizes[at : at + 1] = [part, sizes[at] // part]
        return self.program.call(ATEN.reshape.default, node, [-1, *sizes])

    def heads_to_batch(self):
        node = self.value()
        first, *rest = self.shape(node)
        folded = self.program.call(ATEN.reshape.default, node, [-1, *rest])
        halves = self.program.call(ATEN.mul.Tensor, folded, 0.5)
        return self.program.call(ATEN.reshape.default, halves, [-1, first, *rest])

    def unsqueeze(self):
        node = self.value()
        return self.program.call(ATEN.unsqueeze.default, node, self.axis(node))

    def squeeze(self):
        node = self.value()
        return self.program.call(ATEN.squeeze.dim, node, self.axis(node))

    def expand(self):
        node = self.value()
        sizes = [self.choose([n, 2 * n, 3]) if n == 1 else -1 for n in self.shape(node)]
        return self.program.call(ATEN.expand.default, node, [-1, *sizes])

    def expand_weight(self):
        return self.program.call(ATEN.expand_as.default, self.weight(), self.value())

    def slice(self):
        node = self.value()
        ends = [self.random.randint(-4, 6) for _ in range(2)]
        step = self.random.randint(1, 3)
        return self.program.call(ATEN.slice.Tensor, node, self.axis(node), *ends, step)

    def select(self):
        node, index = self.value(), self.random.randint(-3, 3)
        return self.program.call(ATEN.select.int, node, self.axis(node), index)

    def chunk(self):
        node, count = self.value(), self.random.randint(1, 4)
        parts = self.program.call(ATEN.chunk.default, node, count, self.axis(node))
        return self.program.part(parts, self.random.randint(-1, 0))

    def split(self):
        node = self.value()
        axis = self.axis(node)
        size = self.shape(node)[axis - 1]
        at = self.random.randint(0, size)
        parts = self.program.call(ATEN.split_with_sizes.default, node, [at, size - at], axis)
        return self.program.part(parts, self.random.randint(0, 1))

    def cat(self):
        first = self.value()
        axis = self.axis(first)
        parts = [first]
        for _ in range(self.random.randint(0, 2)):
            other = self.value()
            if self.coin():
                end = self.random.randint(0, 2)  # nothing, or a part
                other = self.program.call(ATEN.slice.Tensor, other, axis, 0, end)
            parts.append(other)
        return self.program.call(ATEN.cat.default, parts, axis)

    def conv(self):
        node, weight = self.value(), self.program.nodes[self.choose(["conv", "point"])]
        if self.coin():
            pads = [self.random.randint(0, 2) for _ in range(4)]
            node = self.program.call(ATEN.pad.default, node, pads)
        elif self.coin():
            node = self.double(node)
        bias = self.program.nodes["vector"] if weight.target == "conv" else None
        stride, padding = self.random.randint(1, 2), self.random.randint(0, 1)
        sizes = [stride, stride], [padding, padding]
        return self.program.call(ATEN.conv2d.default, node, weight, bias, *sizes)

    def conv_transpose(self):
        weight = self.program.nodes["transposed"]
        return self.program.call(ATEN.conv_transpose2d.input, self.value(), weight, stride=[2, 2])

    def double(self, node=None):
        scale = self.choose([2.0, 2.0, 2.0, 2.2, 1.0])
        node = node or self.value()
        return self.program.call(ATEN.upsample_nearest2d.vec, node, None, [scale, scale])

    def linear(self):
        name, bias = self.choose([("linear", "outputs"), ("square", "row"), ("square", None)])
        added = None if bias is None else self.program.nodes[bias]
        return self.program.call(ATEN.linear.default, self.value(), self.program.nodes[name], added)

    def group_norm(self):
        node, affine = self.value(), self.coin()
        groups = self.choose([1, 3]) if affine else self.choose([1, 2, 3])
        weights = [self.program.nodes["vector"]] * 2 if affine else []
        return self.program.call(ATEN.group_norm.default, node, groups, *weights)

    def layer_norm(self):
        node, affine = self.value(), self.coin()
        weights = [self.program.nodes["row"]] * 2 if affine else []
        return self.program.call(ATEN.layer_norm.default, node, self.shape(node)[-1:], *weights)

    def rms_norm(self):
        node = self.value()
        return self.program.call(ATEN.rms_norm.default, node, self.shape(node)[-1:], eps=1e-5)

    def modulate(self):
        """What diffusion transformers do behind a norm."""
        scale, shift = self.value(), self.value()
        above = self.program.call(ATEN.add.Tensor, scale, 1.0)
        scaled = self.program.call(ATEN.mul.Tensor, self.layer_norm(), above)
        return self.program.call(ATEN.add.Tensor, scaled, shift)

    def attention(self):
        operands = [self.value() for _ in range(3)]
        scale = self.choose([None, 0.3])
        call = ATEN.scaled_dot_product_attention.default
        return self.program.call(call, *operands, scale=scale)

    def written_attention(self):
        """Attention as products and a softmax, which may become one node."""
        q, k, v = (self.value() for _ in range(3))
        scores = self.program.call(ATEN.matmul.default, q, self.program.call(ATEN.mT.default, k))
        if self.coin():
            scores = self.program.call(ATEN.mul.Tensor, scores, self.choose(NUMBERS))
        weights = self.program.call(ATEN.softmax.int, scores, -1)
        return self.program.call(ATEN.matmul.default, weights, v)

    def einsum(self):
        equation = self.choose(EQUATIONS)
        return self.program.call(ATEN.einsum.default, equation, [self.value(), self.value()])

    def softmax(self):
        node = self.value()
        return self.program.call(ATEN.softmax.int, node, self.axis(node))

    def reduce(self):
        node, operator = self.value(), self.choose(REDUCTIONS)
        axes = sorted({self.axis(node) for _ in range(self.random.randint(1, 2))})
        return self.program.call(operator, node, axes, self.coin())

    def variance(self):
        node = self.value()
        options = {"correction": self.choose([0, 1, 0.5]), "keepdim": self.coin()}
        return self.program.call(ATEN.var.correction, node, [self.axis(node)], **options)

    def length(self):
        node, order = self.value(), self.choose([1, 2, math.inf])
        call = ATEN.linalg_vector_norm.default
        return self.program.call(call, node, order, [self.axis(node)], self.coin())

    def average(self):
        kernel, stride = ([self.random.randint(1, 3) for _ in range(2)] for _ in range(2))
        padding = [self.random.randint(0, size // 2) for size in kernel]
        options = [self.coin(), self.coin(), self.choose([None, 3, -1])]
        return self.program.call(
            ATEN.avg_pool2d.default, self.value(), kernel, stride, padding, *options
        )

    def average_to_size(self):
        size = [self.random.randint(1, 3) for _ in range(2)]
        return self.program.call(ATEN.adaptive_avg_pool2d.default, self.value(), size)

    def embedding(self):
        table, labels = (self.program.nodes[name] for name in ("table", "labels"))
        return self.program.call(ATEN.embedding.default, table, labels)

    def read_back(self):
        """A product with a table that may also be one of embeddings."""
        return self.program.call(ATEN.linear.default, self.value(), self.program.nodes["table"])


KINDS = [
    *[Grower.unary, Grower.binary, Grower.with_number] * 3, Grower.gelu_tanh, Grower.square,
    Grower.clamp, Grower.same, Grower.permute, Grower.transpose, Grower.reshape,
    Grower.heads_to_batch, Grower.unsqueeze, Grower.squeeze, Grower.expand, Grower.expand_weight,
    Grower.slice, Grower.select, Grower.chunk, Grower.split, Grower.cat, Grower.cat, Grower.conv,
    Grower.conv, Grower.conv_transpose, Grower.double, Grower.linear, Grower.linear,
    Grower.group_norm, Grower.layer_norm, Grower.rms_norm, Grower.modulate, Grower.attention,
    Grower.written_attention, Grower.einsum, Grower.softmax, Grower.reduce, Grower.variance,
    Grower.length,
    Grower.average, Grower.average_to_size, Grower.embedding, Grower.read_back,
]  # fmt: skip


def make_inputs(random):
    """Return normal numbers, some of them large or special, and conditioning of any size."""
    generator = torch.Generator().manual_seed(random.randint(0, 99))
    scale = random.choice([1.0, 1.0, 30.0, 1e6])
    inputs = {
        "x": torch.randn(ROWS, 3, 6, 4, generator=generator),
        "y": torch.randn(ROWS, 3, 6, 4, generator=generator) * scale,
        "t": torch.rand(ROWS, generator=generator) * 999,
        "labels": torch.randint(5, (ROWS,), generator=generator),
    }
    for _ in range(random.randint(0, 3)):
        numbers = inputs[random.choice("xyt")].view(-1)
        numbers[random.randrange(len(numbers))] = random.choice(NUMBERS)
    return inputs


def check_programs(count, asked=True):
    """Grow random programs; each is refused by the name of an operator, or right.

    They are others each time if someone asked for them, and else always the same.
    """
    program, outcomes = AtenProgram(), Counter()

    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        derandomize=not asked,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, 2**63).map(Random), st.integers(1, 16))
    def agree(random, steps):  # fewer steps of a seed begin the same program
        inputs, level = make_inputs(random), random.choice(LEVELS)
        program.clear()
        grower = Grower(program, random)
        for _ in range(steps):
            grower.grow()
        program.finish(grower.values[-1])
        note(program.text())
        refusal = None
        try:
            plan = make_plan(program.program, program.network)
            check_program(program, inputs, plan)
            check_program(program, inputs, plan, level)
        except Unavailable as error:
            refusal = str(error)
            outcomes["refused"] += 1
        else:
            outcomes["read"] += 1
        assert refusal is None or "cannot read aten." in refusal

    agree()
    return outcomes


def test_random_programs_are_what_torch_makes_of_them():
    """FASTDIFF_RANDOM_PROGRAMS=5000 takes some minutes."""
    asked = os.environ.get("FASTDIFF_RANDOM_PROGRAMS")
    outcomes = check_programs(int(asked or 60), asked is not None)
    assert outcomes["read"] > outcomes["refused"], outcomes
