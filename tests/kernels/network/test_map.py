from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.nn import functional

from fastdiff import _native
from fastdiff.native.operations import BINARY, OPERATIONS

from .operands import ACTIVATIONS, EPS, Array, Exact, beside, only_its_own, strided

Step = tuple[str, int, int, float]


def run(level: str, y: Array, inputs: Sequence[Array], *program: Step, threads: int = 1) -> Array:
    """Run a program on inputs that are broadcast to y's shape."""
    plan = _native.NetworkPlan(level)
    plan.map(
        "map",
        shape=y.shape,
        inputs=[strided(np.broadcast_to(x, y.shape)) for x in inputs],
        output=strided(y),
        program=list(program),
    )
    plan.run(threads)
    return y


def unary(name: str) -> Step:
    return (name, 0, -1, 0.0)


ALL = np.linspace(-103, 88, 20001, dtype=np.float32)
SMALL = np.concatenate(
    [np.linspace(-12, 12, 9999), np.geomspace(1e-30, 1e-3, 99)], dtype=np.float32
)
POSITIVE = np.geomspace(1e-30, 1e30, 9999, dtype=np.float32)
ANGLES = np.linspace(-1e4, 1e4, 9999, dtype=np.float32)

# Function, numbers, what it is, and how many units in the last place it may be off.
FUNCTIONS: dict[str, tuple[Array, Callable[[Exact], Exact], float]] = {
    "negate": (ALL, np.negative, 0),
    "exp": (ALL, np.exp, 2),
    "log": (POSITIVE, np.log, 2),
    "sqrt": (POSITIVE, np.sqrt, 0.5),
    "rsqrt": (POSITIVE, lambda x: 1 / np.sqrt(x), 2),
    "sin": (ANGLES, np.sin, 2),
    "cos": (ANGLES, np.cos, 2),
    "tanh": (SMALL, np.tanh, 3),
    "mish": (SMALL, lambda x: x * np.tanh(np.logaddexp(0, x)), 6),
    "round": (np.concatenate([SMALL, np.arange(-9, 9, 0.5, dtype=np.float32)]), np.rint, 0),
}
# Activations matter near zero most: a sigmoid's tail may be off by as many roundings as x is large,
# and GELU's, which is a difference, by two units in the last place of x.
BOUNDS: dict[str, Callable[[Exact, Exact], Exact]] = {
    "sigmoid": lambda x, y: (8 + 2 * abs(x)) * EPS * y,
    "silu": lambda x, y: (8 + 2 * abs(x)) * EPS * abs(y),
    "gelu": lambda x, y: 4 * EPS * abs(x),
    "gelu_tanh": lambda x, y: 4 * EPS * abs(x),
}


@pytest.mark.parametrize("name", list(FUNCTIONS))
def test_functions_are_accurate(level: str, name: str) -> None:
    x, function, ulps = FUNCTIONS[name]
    got = run(level, np.full_like(x, np.nan), [x], unary(name))
    want = function(x.astype(np.float64))
    assert (np.abs(got - want) <= ulps * np.spacing(np.abs(want.astype(np.float32)))).all()


@pytest.mark.parametrize("name", list(ACTIVATIONS))
def test_activations_are_accurate(level: str, name: str) -> None:
    function, bound = ACTIVATIONS[name], BOUNDS[name]
    x = SMALL.astype(np.float64)
    got = run(level, np.full_like(SMALL, np.nan), [SMALL], unary(name))
    assert (np.abs(got - function(x)) <= bound(x, function(x))).all()


SPECIAL = np.array(
    [0, 1e-45, 1e-38, 1, 2.5, 14, 20, 88, 89, 104, 500, 1e19, 1e30, 3.4e38, np.inf, np.nan],
    np.float32,
)
TORCH: dict[str, Callable[..., torch.Tensor]] = {
    "subtract": torch.sub,
    "negate": torch.neg,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
    "mish": functional.mish,
}


@pytest.mark.parametrize("name", list(OPERATIONS))
def test_special_numbers_become_what_torch_makes_of_them(level: str, name: str) -> None:
    signed = np.concatenate([SPECIAL, -SPECIAL])
    if name in BINARY:
        operands = [np.ascontiguousarray(part).ravel() for part in np.meshgrid(signed, signed)]
    else:
        operands = [np.tile(signed, 3)]  # enough for vectors and for what is left of them
    function = TORCH.get(name) or getattr(torch, name)
    want = function(*map(torch.from_numpy, operands)).numpy()

    got = run(level, np.full_like(want, 7), operands, (name, 0, len(operands) - 1 or -1, 0.0))
    with np.errstate(all="ignore"):
        defined = OPERATIONS[name].compute(*(x.astype(np.float64) for x in operands))
        defined = np.float32(defined)

    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-35)
    np.testing.assert_allclose(defined, want, rtol=1e-5, atol=1e-35)


def test_a_program_runs_step_by_step_in_place(level: str) -> None:
    rng = np.random.default_rng(0)
    x, scale = beside(rng, (3, 50, 37)), beside(rng, (3, 1, 37))
    want = (x * scale - np.float32(2.5)) / (x - scale)

    y = run(
        level, x, [x, scale],
        ("multiply", 0, 1, 0.0), ("constant", -1, -1, 2.5), ("subtract", 2, 3, 0.0),
        ("subtract", 0, 1, 0.0), ("divide", 4, 5, 0.0),
    )  # fmt: skip

    np.testing.assert_array_equal(y, want)
    assert only_its_own(y)


@st.composite
def layouts(draw: st.DrawFn) -> dict[str, Any]:
    """Shapes of up to five axes, one of them long, and an order of axes in memory for y and x."""
    rank = draw(st.integers(1, 5))
    shape = draw(st.lists(st.integers(1, 5), min_size=rank, max_size=rank))
    shape[draw(st.integers(0, rank - 1))] = draw(st.sampled_from([1, 7, 16, 63, 256, 300, 1030]))
    order = st.permutations(range(rank))
    shared = draw(st.lists(st.booleans(), min_size=rank, max_size=rank))
    return {"shape": tuple(shape), "y": draw(order), "x": draw(order), "shared": shared}


def laid_out(rng: np.random.Generator | None, shape: tuple[int, ...], order: list[int]) -> Array:
    """Return an array whose axes lie in memory in the given order."""
    array = beside(rng, tuple(shape[axis] for axis in order))
    return np.moveaxis(array, range(len(order)), order)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(layout=layouts())
def test_any_layout_is_read_and_written(level: str, layout: dict[str, Any]) -> None:
    rng, shape = np.random.default_rng(0), layout["shape"]
    x = laid_out(rng, shape, layout["x"])
    b = beside(rng, tuple(1 if s else n for s, n in zip(layout["shared"], shape, strict=True)))
    y = laid_out(None, shape, layout["y"])

    np.testing.assert_array_equal(run(level, y, [x]), x)
    np.testing.assert_array_equal(run(level, y, [x, b], ("add", 0, 1, 0.0)), x + b)
    assert only_its_own(y)


def test_an_image_has_the_same_bits_in_any_batch_and_with_any_threads(level: str) -> None:
    x = beside(np.random.default_rng(1), (9, 700, 13))[..., 1:12]
    program = (unary("silu"), ("exp", 1, -1, 0.0), ("gelu", 2, -1, 0.0), ("divide", 3, 1, 0.0))
    together = run(level, np.zeros(x.shape, np.float32), [x], *program)

    for image in (0, 5):
        alone = run(
            level,
            np.zeros((1, *x.shape[1:]), np.float32),
            [x[image : image + 1]],
            *program,
            threads=3,
        )
        np.testing.assert_array_equal(alone[0], together[image])
