"""Programs of the native backend's operators, put together call by call instead of traced."""

import operator

import numpy as np
import torch
from torch import fx, nn
from torch._guards import detect_fake_mode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_map

from fastdiff.networks import Conditioning, Network
from fastdiff.networks.precision import AtPrecision, trace

ATEN = torch.ops.aten
SHAPE = (3, 6, 4)
BATCHES = (11, 13)  # what differs between them is the batch


WEIGHTS = {
    "vector": (3,), "row": (4,), "column": (3, 1, 1), "pixel": (1, 1, 1), "image": SHAPE,
    "conv": (3, 3, 3, 3), "depthwise": (3, 1, 3, 3), "point": (5, 3, 1, 1),
    "transposed": (3, 7, 2, 2), "linear": (7, 4), "square": (4, 4), "table": (5, 4),
    "mask": (6, 6), "outputs": (7,), "line": (5, 3, 3), "transposed line": (3, 7, 2),
    "wide": (72, 7), "five": (5,), "depthwise line": (3, 1, 3),
}  # fmt: skip


class Bank(nn.Module):
    """Weights for whatever a program calls."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        for name, shape in WEIGHTS.items():
            values = torch.randn(shape, generator=generator)
            self.register_parameter(name, nn.Parameter(values, requires_grad=False))

    def forward(self, x, t, y, labels):
        return x + y + (t + labels)[:, None, None, None]  # of one batch


class AtenProgram:
    """An exported program that calls can be added to, and taken from.

    Attributes
    ----------
    network : Network
        Inputs x and y (B, 3, 6, 4), t (B,) and labels (B,).
    program : torch.export.ExportedProgram
        Its weights are `WEIGHTS`.
    nodes : dict of str to fx.Node
        Inputs and weights, by their names.
    """

    def __init__(self):
        conditioning = {
            "y": Conditioning(SHAPE, torch.float32),
            "labels": Conditioning(num_classes=5),
        }
        self.network = Network(Bank(), SHAPE, conditioning)
        module = AtPrecision(self.network.module, torch.float32)
        self.program = trace(module, self.network, torch.float32)
        placeholders = [n for n in self.program.graph.nodes if n.op == "placeholder"]
        self.nodes = dict(zip([*WEIGHTS, "x", "t", "y", "labels"], placeholders, strict=True))
        self._output = next(n for n in self.program.graph.nodes if n.op == "output")
        self._batch = self.nodes["x"].meta["val"].shape[0]
        self._fake = detect_fake_mode(self.nodes["x"].meta["val"])
        for name, node in self.nodes.items():
            shape, dtype = tuple(node.meta["val"].shape), node.meta["val"].dtype
            shapes = [shape if name in WEIGHTS else (rows, *shape[1:]) for rows in BATCHES]
            with self._fake:
                node.meta["fakes"] = [torch.empty(sizes, dtype=dtype) for sizes in shapes]
        self.clear()

    def call(self, target, *args, **kwargs):
        """Append a call and return its node; what torch raises leaves the program as it was."""
        args, kwargs = normalised(target, args, kwargs)
        fakes = []
        for index in range(len(BATCHES)):
            given = fx.map_arg((args, kwargs), lambda node, i=index: node.meta["fakes"][i])
            with self._fake, torch.no_grad():
                fakes.append(target(*given[0], **given[1]))
        with self.program.graph.inserting_before(self._output):
            node = self.program.graph.call_function(target, args, kwargs)
        node.meta.update(fakes=fakes, val=tree_map(self._open, *fakes))
        return node

    def _open(self, one, other):
        """Return a tensor of which each axis that grows with the batch is open."""
        sizes = []
        for few, many in zip(one.shape, other.shape, strict=True):
            factor = (many - few) // (BATCHES[1] - BATCHES[0])
            sizes.append(factor * self._batch + (few - factor * BATCHES[0]) if factor else few)
        with self._fake:
            return torch.empty(sizes, dtype=one.dtype)

    def part(self, node, index):
        """Append the choice of one of several results."""
        return self.call(operator.getitem, node, index)

    def text(self):
        """Return the calls that the result depends on, as text."""
        needed, lines = {self._output}, []
        for node in reversed(self.program.graph.nodes):
            if node in needed and node.op != "placeholder":
                needed.update(node.all_input_nodes)
                lines.append(node.format_node())
        return "\n".join(lines[::-1])

    def finish(self, node):
        """Make `node` what the program returns."""
        self._output.args = ((node,),)

    def clear(self):
        """Take all calls away."""
        self.finish(self.nodes["x"])
        for node in reversed(list(self.program.graph.nodes)):
            if node.op == "call_function":
                self.program.graph.erase_node(node)

    def run(self, inputs, dtype, noise=None):
        """Return what torch makes of inputs by their names, as (B, elements).

        Parameters
        ----------
        inputs : dict of str to Tensor
        dtype : torch.dtype
            What is computed in.
        noise : callable, optional
            Changes every number on the way: a function of an operator, which is None for inputs
            and weights, its arguments and its result.
        """
        env = {}
        change = noise or (lambda target, args, value: value)
        for name, node in self.nodes.items():
            value = inputs[name] if name in inputs else getattr(self.network.module, name)
            kind = dtype if value.is_floating_point() else value.dtype
            env[node] = change(None, (), value.to(kind, copy=True))
        with sdpa_kernel(SDPBackend.MATH):  # others take a query that is NaN for one without keys
            for node in self.program.graph.nodes:
                if node.op == "call_function":
                    args, kwargs = fx.map_arg((node.args, node.kwargs), env.__getitem__)
                    env[node] = change(node.target, args, node.target(*args, **kwargs))
        result = env[self._output.args[0][0]]
        return result.reshape(len(inputs["x"]), -1)


def difference(got, expected):
    """Largest error of an element, as a part of the largest; infinite where NaN or infinity is."""
    finite = np.isfinite(expected)
    if not np.array_equal(got[~finite], expected[~finite], equal_nan=True):
        return np.inf
    scale = max(np.abs(expected[finite]).max(initial=0), 1e-30)
    return np.abs(got[finite] - expected[finite]).max(initial=0) / scale


def normalised(target, args, kwargs):
    """Return arguments as torch.export writes them: named only where they must be."""
    schema = getattr(target, "_schema", None)
    if schema is None:
        return args, kwargs
    args, kwargs = list(args), dict(kwargs)
    positional = [argument for argument in schema.arguments if not argument.kwarg_only]
    while any(argument.name in kwargs for argument in positional):
        argument = positional[len(args)]
        args.append(kwargs.pop(argument.name, argument.default_value))
    return tuple(args), kwargs
