"""What depends on no input of a network: torch computes it while the program is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from fastdiff.native.reading.reader import Reader
from fastdiff.native.reading.results import Rows

_FEW = 3  # images in the batch that tells whether a constant depends on it


def in_place(target: Any) -> bool:
    """Whether an operator writes over one of its operands."""
    schema = getattr(target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def is_empty(value: Any) -> bool:
    """Whether a tensor of the program has no elements."""
    return isinstance(value, Tensor) and any(isinstance(n, int) and n == 0 for n in value.shape)


def empty(value: Any) -> Tensor:
    """Return a tensor without elements, which depends on nothing, for a batch of one image."""
    return torch.empty([n if isinstance(n, int) else 1 for n in value.shape], dtype=value.dtype)


def compute_constant(reader: Reader, args: Any, kwargs: Any, env: Mapping[fx.Node, Any]) -> Any:
    """Compute the operator that `reader` is at for a batch of one image.

    Raises
    ------
    Unavailable
        It draws random numbers, changes what the network keeps, or depends on the size of the
        batch or on places in it: for a few images it is not the same for each of them.
    """
    node = reader.node
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise reader.refuse("it draws random numbers")
    if in_place(node.target) and reader.keeps(args[0]):
        raise reader.refuse("it changes what is a weight, or is kept from call to call")
    compute = _function(node)
    try:
        with torch.no_grad():
            few = _compute_few(node, env) if _sees_batch(node, env) else None
            one = compute(*_sized(args, 1), **_sized(kwargs, 1))
    except (RuntimeError, IndexError, TypeError, ValueError, ZeroDivisionError) as error:
        raise reader.refuse(f"torch cannot compute it: {error}") from error
    if few is not None and not _alike(node.meta["val"], one, few):
        raise reader.refuse("its result depends on the size of the batch")
    return one


def _function(node: fx.Node) -> Any:
    """Return what computes `node`; memory that nobody has written may hold anything: zeros here."""
    return _zeros if node.target is torch.ops.aten.empty.memory_format else node.target


def _zeros(size: Any, *, memory_format: object = None, **options: Any) -> Tensor:
    return torch.zeros(size, **options)


def _sees_batch(node: fx.Node, env: Mapping[fx.Node, Any]) -> bool:
    inputs = node.all_input_nodes
    return any(isinstance(env[n], Rows) or _has_batch(n.meta["val"]) for n in inputs)


def _compute_few(node: fx.Node, env: Mapping[fx.Node, Any]) -> Any:
    """Compute `node` on copies of its inputs for a batch of a few images."""

    def copies(argument: fx.Node) -> Any:
        given = env[argument]
        if isinstance(given, Tensor):
            return _repeated(given, argument.meta["val"])
        return _sized(given, _FEW)

    args, kwargs = fx.map_arg((node.args, node.kwargs), copies)
    return _function(node)(*args, **kwargs)


def _sized(given: Any, batch: int) -> Any:
    """Return arguments with the numbers that they hold for this batch."""
    return tree_map(lambda leaf: leaf.at(batch) if isinstance(leaf, Rows) else leaf, given)


def _repeated(one: Tensor, value: Tensor) -> Tensor:
    """Return a copy of a constant for a batch of a few images: alike for all of them."""
    sizes = [n if isinstance(n, int) else Rows(n.node.expr).at(_FEW) for n in value.shape]
    return one.repeat(
        [size // own if own else 1 for size, own in zip(sizes, one.shape, strict=True)]
    )


def _alike(value: Any, one: Any, few: Any) -> bool:
    """Whether what a few images have is what one has, over and over."""
    if isinstance(value, (tuple, list)):
        return all(_alike(*parts) for parts in zip(value, one, few, strict=True))
    expected = _repeated(one, value)
    wide = (expected.to(torch.complex128), few.to(torch.complex128))
    return expected.shape == few.shape and torch.allclose(*wide, rtol=1e-5, equal_nan=True)


def _has_batch(value: Any) -> bool:
    return any(
        isinstance(leaf, Tensor) and any(not isinstance(size, int) for size in leaf.shape)
        for leaf in tree_leaves(value)
    )
