"""Copies of a module: one to run, one without its weights, one with other weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from fastdiff.errors import InvalidArgument, WeightsError
from fastdiff.networks.wrappers import unwrapped

Module = TypeVar("Module", bound=nn.Module)


def evaluation_copy(module: nn.Module) -> nn.Module:
    """Return a copy of `module` to run: in evaluation mode, and without gradients.

    Running a module may change it (batch statistics, counters, what it keeps of its inputs), so
    nobody's own module is run. Wrappers of it and of its parts are taken off (`unwrapped`).

    Raises
    ------
    InvalidArgument
        The module holds something that cannot be copied, or has no weights yet.
    """
    try:
        with torch.no_grad(), _CopiesOfResults():
            copied: nn.Module = copy.deepcopy(module)
    except Exception as error:  # whatever the parts of somebody's module raise
        raise InvalidArgument(
            f"{type(module).__name__} cannot be copied, and only a copy is run, so that yours "
            f"stays as it is: {error}; remove what cannot be copied, or give the module a "
            "__deepcopy__ of its own"
        ) from error
    for parent in list(copied.modules()):
        for name, child in list(parent.named_children()):
            inner = unwrapped(child)
            if inner is not child:
                setattr(parent, name, inner)
    copied = unwrapped(copied).eval()
    for name, parameter in copied.named_parameters():
        if nn.parameter.is_lazy(parameter):
            raise InvalidArgument(f"{name} has no values yet: run the module once, then compile it")
        parameter.requires_grad_(False)
    return copied


class _CopiesOfResults(TorchFunctionMode):
    """Lets ``copy.deepcopy`` copy tensors that have a gradient's history, by their values.

    A module keeps such tensors after a run, and `torch.nn.utils.weight_norm` always does.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.__deepcopy__ and not args[0].is_leaf:
            tensor, memo = args
            return memo.setdefault(id(tensor), tensor.detach().clone())
        return func(*args, **(kwargs or {}))


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
    with _CopiesOfResults():
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
    if isinstance(weights, nn.Module):
        weights = unwrapped(weights).state_dict()
    state = dict(weights)
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
