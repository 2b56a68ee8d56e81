"""A module without its weights, and other weights for it."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from fastdiff.errors import WeightsError

Module = TypeVar("Module", bound=nn.Module)


def skeleton(module: Module) -> Module:
    """Return a copy of `module` whose weights have names, shapes and types, and no memory.

    What `nn.Module.state_dict` leaves out, such as buffers that are not persistent, is copied.
    """
    memo: dict[int, object] = {}
    for tensor in module.state_dict(keep_vars=True).values():
        if isinstance(tensor, Tensor):
            bare: Tensor = torch.empty_like(tensor, device="meta", requires_grad=False)
            is_parameter = isinstance(tensor, nn.Parameter)
            memo[id(tensor)] = nn.Parameter(bare, tensor.requires_grad) if is_parameter else bare
    return copy.deepcopy(module, memo)


def with_weights(module: Module, weights: nn.Module | Mapping[str, Tensor]) -> Module:
    """Return `module` with other weights, whose memory it shares.

    Parameters
    ----------
    module : nn.Module
        Stays as it is; only its `skeleton` is used.
    weights : nn.Module or mapping of str to Tensor
        A module of the same structure, which may be a part of `module` that holds all its weights
        (the model in a wrapper), or the ``state_dict`` of one.

    Raises
    ------
    WeightsError
        Names or shapes differ; the message names the first that does.
    """
    state = dict(weights.state_dict() if isinstance(weights, nn.Module) else weights)
    bare = skeleton(module)
    expected = bare.state_dict()
    prefix = _prefix(expected, state)
    state = {prefix + name: value for name, value in state.items()}
    for name in (*expected, *state):
        wanted, got = (_shape(held.get(name)) for held in (expected, state))
        if wanted != got:
            raise WeightsError(
                f"expected weights of the compiled model's names and shapes; it has {wanted} for "
                f"{name!r}, the new ones {got}; compile the new model"
            )
    bare.load_state_dict(state, assign=True)
    return bare


def _prefix(expected: Mapping[str, object], state: Mapping[str, object]) -> str:
    """Return what a wrapper puts in front of the names in `state`; empty if it does not fit."""
    first = next(iter(state), "")
    for name in expected:
        prefix = name.removesuffix(first)
        if name.endswith(f".{first}") and {prefix + own for own in state} == set(expected):
            return prefix
    return ""


def _shape(value: object) -> object:
    return tuple(value.shape) if isinstance(value, Tensor) else "nothing"
