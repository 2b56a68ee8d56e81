"""Every argument of every operator that is read is heeded or refused, by torch's own schemas."""

import pytest
import torch
from aten_programs import ATEN, WEIGHTS, AtenProgram, difference
from torch.utils._pytree import tree_map

from fastdiff.errors import Unavailable
from fastdiff.native import make_plan, run_reference
from fastdiff.native.reading.results import OPERATORS

# What an operator is called with at first: all that it must have, and what else it takes to be read
# at all. A string is an input or a weight. Operators that are not here take images.
CALLS = {
    "conv2d": (("x", "conv"), {}),
    "conv_transpose2d": (("x", "transposed"), {"stride": [2, 2]}),
    "conv1d": (("sequence", "line"), {}),
    "conv_transpose1d": (("sequence", "transposed line"), {"stride": [2]}),
    "linear": (("x", "linear"), {}),
    "matmul": (("x", "square"), {}),
    "mm": (("flat", "wide"), {}),
    "addmm": (("outputs", "flat", "wide"), {}),
    "bmm": (("sequence", "columns"), {}),
    "baddbmm": (("products", "sequence", "columns"), {}),
    "softmax": (("x", 1), {}),
    "_softmax": (("x", 1, False), {}),
    "sum": (("x", [1]), {}),
    "mean": (("x", [1]), {}),
    "amax": (("x",), {"dim": [1]}),
    "amin": (("x",), {"dim": [1]}),
    "linalg_vector_norm": (("x",), {"dim": [1]}),
    "norm": (("x", 2, [1]), {}),
    "var.correction": (("x",), {"dim": [1]}),
    "std.correction": (("x",), {"dim": [1]}),
    "var_mean.correction": (("x",), {"dim": [1]}),
    "std_mean.correction": (("x",), {"dim": [1]}),
    "var.dim": (("x", [1]), {}),
    "std.dim": (("x", [1]), {}),
    "var_mean.dim": (("x", [1]), {}),
    "std_mean.dim": (("x", [1]), {}),
    "outer": (("t", "row"), {}),
    "ger": (("t", "row"), {}),
    "unbind": (("x",), {"dim": 1}),
    "stack": ((["x", "y"],), {"dim": 1}),
    "movedim": (("x", 1, 2), {}),
    "moveaxis": (("x", 1, 2), {}),
    "full_like": (("x", 0.5), {}),
    "new_zeros": (("x", [3, 1, 1]), {}),
    "new_ones": (("x", [3, 1, 1]), {}),
    "new_full": (("x", [3, 1, 1], 0.5), {}),
    "pixel_shuffle": (("shuffled", 2), {}),
    "pixel_unshuffle": (("x", 2), {}),
    "repeat_interleave": (("x", 2), {"dim": 1}),
    "upsample_nearest1d": (("sequence", None, [2.0]), {}),
    "prelu": (("x", "vector"), {}),
    "_prelu_kernel": (("x", "column"), {}),
    "addcmul": (("x", "y", "column"), {}),
    "batch_norm": (("x", "vector", "vector", "vector", "variance", False, 0.1, 1e-5, False), {}),
    "group_norm": (("x", 3), {}),
    "layer_norm": (("x", [4]), {}),
    "rms_norm": (("x", [4]), {}),
    "embedding": (("table", "labels"), {}),
    "avg_pool2d": (("x", [3, 3]), {"stride": [2, 2], "padding": [1, 1]}),
    "adaptive_avg_pool2d": (("x", [3, 1]), {}),
    "pad": (("x", [1, 0, 0, 2]), {}),
    "constant_pad_nd": (("x", [1, 0, 0, 2]), {}),
    "upsample_nearest2d": (("x", None, [2.0, 2.0]), {}),
    "dropout": (("x", 0.5, False), {}),
    "to.dtype": (("x", torch.float32), {}),
    "to.device": (("x", torch.device("cpu"), torch.float32), {}),
    "view": (("x", [-1, 72]), {}),
    "reshape": (("x", [-1, 72]), {}),
    "_unsafe_view": (("x", [-1, 72]), {}),
    "unflatten": (("x", 1, [3, 1]), {}),
    "unsqueeze": (("x", 1), {}),
    "squeeze.dim": (("x", 1), {}),
    "squeeze.dims": (("x", [1, 2]), {}),
    "permute": (("x", [0, 2, 3, 1]), {}),
    "transpose": (("x", 1, 2), {}),
    "swapaxes": (("x", 1, 2), {}),
    "einsum": (("nchw->nhcw", ["x"]), {}),
    "expand": (("x", [-1, 3, 6, 4]), {}),
    "slice": (("x",), {"dim": 1, "start": 1}),
    "select": (("x", 1, 1), {}),
    "split.Tensor": (("x", 2), {"dim": 1}),
    "split.sizes": (("x", [1, 2]), {"dim": 1}),
    "split_with_sizes": (("x", [1, 2]), {"dim": 1}),
    "chunk": (("x", 2), {"dim": 1}),
    "cat": ((["x", "y"],), {"dim": 1}),
    "pow": (("x", 2), {}),
    "clamp": (("x",), {"min": -0.5}),
}  # fmt: skip
DERIVED = {  # what is made of an input first
    "sequence": (ATEN.select.int, "x", 3, 0),
    "columns": (ATEN.select.int, "x", 1, 0),
    "products": (ATEN.select.int, "y", 2, 0),
    "flat": (ATEN.view.default, "x", [-1, 72]),
    "shuffled": (ATEN.view.default, "x", [-1, 12, 3, 2]),
    "variance": (ATEN.square.default, "vector"),
}
OTHER_CALLS = {  # where an argument needs other ones
    ("aten.conv2d.default", "groups"): ("x", "depthwise"),
    ("aten.conv1d.default", "groups"): ("sequence", "depthwise line"),
    ("aten.split.sizes", "dim"): ("x", [2, 4]),
    ("aten.split_with_sizes.default", "dim"): ("x", [2, 4]),
}
FILLERS = ("new_zeros", "new_ones", "new_full")  # constants, which say nothing of the inputs
PADS = ("pad", "constant_pad_nd")  # what they make is read by convolutions alone

# What an argument is tried with, by its type; torch itself refuses some.
VALUES = {
    "bool": [True, False],
    "int": [0, 1, 2, 3, -1, 6],
    "float": [0.25, 3.0],
    "number": [0.25, 3, -1.0],
    "str": ["reflect", "replicate", "circular", "tanh"],
    "Tensor": [*WEIGHTS, "y", "t"],
    "Device": [torch.device("cpu")],
    "List[int]": [[0], [1], [2], [1, 1], [2, 2], [2, 1], [0, 1]],
}
# Enumerations are integers in a schema.
NAMED = {
    "dtype": [torch.float64, torch.float16, torch.int64],
    "layout": [torch.strided],
    "memory_format": [torch.channels_last, torch.contiguous_format],
}
NO_VALUE = {"pin_memory"}  # torch refuses it without a GPU


def overload(name):
    _, packet, kind = name.split(".")
    return getattr(getattr(ATEN, packet), kind)


@pytest.fixture(scope="module")
def program():
    return AtenProgram()


@pytest.fixture(scope="module")
def inputs(program):
    x, t, conditioning = program.network.example(3, seed=5)
    return {"x": x, "t": t, **conditioning}


def first_call(name):
    """Return the arguments of the example for an operator."""
    _, packet, kind = name.split(".")
    known = CALLS.get(f"{packet}.{kind}", CALLS.get(packet))
    if known is not None:
        return known
    required = [a for a in overload(name)._schema.arguments if not a.has_default_value()]
    tensors = iter("xyy")
    return tuple(next(tensors) if str(a.type) == "Tensor" else 2.0 for a in required), {}


def outcome(program, inputs, name, args, kwargs):
    """Return the error of what is read, the refusal of it, or None for what torch refuses."""
    program.clear()

    def node(value):
        if value in DERIVED:
            target, source, *options = DERIVED[value]
            return program.call(target, program.nodes[source], *options)
        return program.nodes[value] if value in WEIGHTS or value in inputs else value

    args, kwargs = tree_map(
        lambda value: node(value) if isinstance(value, str) else value, (args, kwargs)
    )
    try:
        result = program.call(overload(name), *args, **kwargs)
        if isinstance(result.meta["val"], (tuple, list)):
            result = program.part(result, -1)
        if name.split(".")[1] in PADS:
            result = program.call(ATEN.conv2d.default, result, program.nodes["conv"])
        if name.split(".")[1] in FILLERS:
            result = program.call(ATEN.add.Tensor, program.nodes["x"], result)
        program.finish(result)
        expected = program.run(inputs, torch.float32)
    except (RuntimeError, IndexError, ValueError, ZeroDivisionError):
        return None
    if not expected.numel():
        return None
    try:
        plan = make_plan(program.program, program.network)
    except Unavailable as refusal:
        return refusal
    held = {key: value.numpy() for key, value in inputs.items()}
    return difference(run_reference(plan, held, len(expected)), expected.numpy())


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_every_argument_is_heeded_or_refused(program, inputs, name):
    args, kwargs = first_call(name)
    first = outcome(program, inputs, name, args, kwargs)
    assert not isinstance(first, Unavailable), first
    assert first < 1e-5
    for argument in overload(name)._schema.arguments:
        if not argument.has_default_value() or argument.name in NO_VALUE:
            continue
        kind = str(argument.type).removeprefix("Optional[").removesuffix("]")
        kind = kind if kind in VALUES else f"{kind}]"  # a list
        usual = kwargs.get(argument.name, argument.default_value)
        tried = 0
        for value in NAMED.get(argument.name, VALUES[kind]):
            if value == usual and type(value) is type(usual):
                continue
            needed = OTHER_CALLS.get((name, argument.name), args)
            found = outcome(program, inputs, name, needed, {**kwargs, argument.name: value})
            tried += found is not None
            if isinstance(found, Unavailable):
                assert name in str(found)
            elif found is not None:
                assert found < 1e-5, f"{argument.name}={value!r} is read as something else"
        assert tried, f"torch takes no value that {argument.name} is tried with"
