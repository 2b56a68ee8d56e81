"""Plans beside what torch computes, as closely as roundings leave that."""

import numpy as np
import torch
from aten_programs import ATEN
from planned_networks import evaluate

from fastdiff.native import run_reference

ROWS = 3
LEAST = 1e-30  # what is smaller may be 0
TAILS = {ATEN.sigmoid.default, ATEN.silu.default, ATEN.gelu.default, ATEN.mish.default}
NORMS = {ATEN.group_norm.default, ATEN.layer_norm.default}
EPSILON = 1e-5  # of a norm


def alike(got, expected):
    """Where two results are both finite, the same infinity, or both NaN."""
    finite = np.isfinite(got) & np.isfinite(expected)
    return finite | (got == expected) | np.isnan(got) & np.isnan(expected)


def check_close(got, expected, moved, tolerance, what):
    """Hold `got` to what is expected, as closely as rounding leaves that; `moved` differ by it."""
    finite = np.isfinite(expected)
    sure = np.logical_and.reduce([alike(other, expected) for other in moved])
    with np.errstate(invalid="ignore", over="ignore"):
        moves = np.max([np.abs(other - expected) for other in moved], axis=0)
        room = tolerance * np.abs(expected[finite & sure]).max(initial=LEAST) + 100 * moves
        off = ~alike(got, expected) | finite & (np.abs(got - expected) > room)
    for at in map(tuple, np.argwhere(sure & off)[:1]):
        raise AssertionError(f"{what} at {at}: {got[at]}, expected {expected[at]} +- {room[at]}")


def rounding(size, seed):
    """Return a change of every number by a part of it, as roundings make it.

    An activation is changed by a part of its operand, which may nearly cancel in it, and ends where
    e^x does; a norm by a part of what its operand is before the mean is taken away.
    """
    generator = torch.Generator().manual_seed(seed)

    def noise(value):
        return size * torch.randn(value.shape, generator=generator, dtype=value.dtype)

    def change(target, args, value):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point():
            return value
        if target in TAILS:
            value = value + noise(value) * args[0].nan_to_num(0, 0, 0) + LEAST / size * noise(value)
        if target in NORMS:
            value = value + noise(value) * uncentred(target, *args).nan_to_num(0, 0, 0)
        return value * (1 + noise(value))

    return change


def uncentred(target, x, groups, *_):
    """Return x as a norm scales it."""
    rows = x.reshape(len(x), groups, -1) if target is ATEN.group_norm.default else x
    return (rows / (rows.var(-1, correction=0, keepdim=True) + EPSILON).sqrt()).reshape(x.shape)


def check_program(program, inputs, plan, level=None):
    """Compare a plan with torch: by its definition, or on the kernels of a level."""
    held = {name: value.numpy() for name, value in inputs.items()}

    def answer(dtype, noise=None):
        return program.run(inputs, dtype, noise).numpy().astype(np.float64)

    exact = answer(torch.float64)
    size = 1e-13 if level is None else 1e-6
    moved = [answer(torch.float64, rounding(size, seed)) for seed in range(4)]
    if level is None:
        check_close(run_reference(plan, held, ROWS), exact, moved, 1e-9, "the plan")
    else:
        got = evaluate(plan, held, ROWS, {}, level).reshape(ROWS, -1).astype(np.float64)
        check_close(got, answer(torch.float32), [exact, *moved], 1e-4, f"{level} kernels")
