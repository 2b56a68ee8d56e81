"""Copies of a user's module."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from fastdiff.errors import InvalidArgument

Module = TypeVar("Module", bound=nn.Module)


def copied(module: Module, memo: dict[int, object] | None = None) -> Module:
    """Return a deep copy of `module`.

    Parameters
    ----------
    module : nn.Module
    memo : dict, optional
        As for `copy.deepcopy`: what stands in the copy for the objects of these ids.

    Raises
    ------
    InvalidArgument
        It holds something that cannot be copied, such as a lock; the message names the attribute.
    """
    try:
        return copy.deepcopy(module, memo)
    except (TypeError, RuntimeError) as error:  # torch raises RuntimeError for a computed tensor
        name = _not_copyable(module)
        if name is None:
            raise
        raise InvalidArgument(
            f"{name} cannot be copied: {error}; fastdiff works on a copy of the module, so keep "
            "it outside, or give the class that holds it a __deepcopy__"
        ) from error


def _not_copyable(module: nn.Module) -> str | None:
    """Return the first attribute that cannot be copied, with its class, by its path."""
    for path, part in module.named_modules():
        for attribute, value in vars(part).items():
            if attribute == "_modules":  # which are parts themselves
                continue
            try:
                copy.deepcopy(value)
            except (TypeError, RuntimeError):
                place = ".".join(filter(None, (type(module).__name__, path, attribute)))
                return f"{place} ({type(value).__name__})"
    return None
