"""Puts ``fastdiff::attention`` into a model in place of torch's scaled_dot_product_attention.

Nothing is patched: a module is wrapped in one that intercepts the function while it runs, and an
exported graph is copied and rewritten. What compilers and exporters make of either has the operator
as one node; ``onnx_translations`` gives it to ONNX as its Attention.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from fastdiff.kernels.attention import MAX_HEAD_SIZE

_ATEN = torch.ops.aten.scaled_dot_product_attention.default


@dataclass(frozen=True)
class AttentionCall:
    """One call of scaled_dot_product_attention in a model.

    Attributes
    ----------
    module : str
        Path of the innermost submodule that makes it, such as ``"mid_block.attentions.0"``.
    kept : str or None
        Why it stays torch's; None if it is replaced.
    """

    module: str
    kept: str | None


def replace_attention(
    module: nn.Module, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> tuple[nn.Module, list[AttentionCall]]:
    """Return `module` with fastdiff's attention in it, and its calls in order.

    Calls with a mask, dropout, causality, grouped heads, or a head size that the kernels do not
    take stay as they are.

    Parameters
    ----------
    module : nn.Module
        Stays as it is, and shares its weights with the result. The module of an ExportedProgram
        (``program.module()``) has its graph copied and rewritten; any other is wrapped.
    args, kwargs
        An example of its inputs, to find the calls; not needed for an exported graph.

    Returns
    -------
    module : nn.Module
    calls : list of AttentionCall
    """
    if isinstance(module, torch.fx.GraphModule):
        return _rewrite(module)
    replaced = _WithAttention(module)
    with torch.inference_mode(), _paths(module) as path:
        calls: list[AttentionCall] = []
        with _Intercept(lambda kept: calls.append(AttentionCall(path[-1], kept))):
            module(*args, **(kwargs or {}))
    return replaced, calls


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what ``torch.onnx.export`` takes as custom_translation_table, for opset 23 and up."""
    return {torch.ops.fastdiff.attention.default: _to_onnx}


def _to_onnx(q: Any, k: Any, v: Any, scale: float | None = None) -> Any:
    from onnxscript import opset23

    op: Any = opset23  # annotated for eager values, called with traced ones
    return op.Attention(q, k, v, scale=scale)[0]


class _WithAttention(nn.Module):
    """`module`, whose attention is fastdiff's while it runs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.training = module.training

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        with _Intercept():
            return self.module(*args, **kwargs)


class _Intercept(TorchFunctionMode):
    """Replaces the function where this thread calls it, and tells `listener` of each call."""

    def __init__(self, listener: Callable[[str | None], object] | None = None) -> None:
        super().__init__()
        self.listener = listener

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is not scaled_dot_product_attention:
            return func(*args, **kwargs)
        kept = _reason_to_keep(*args, **kwargs)
        if self.listener is not None:
            self.listener(kept)
        return func(*args, **kwargs) if kept else _replacement(*args, **kwargs)


def _reason_to_keep(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> str | None:
    """Say what the operator cannot do of a call; takes torch's arguments."""
    size = query.shape[-1]
    if attn_mask is not None:
        return "has a mask"
    if dropout_p != 0:
        return "has dropout"
    if is_causal:
        return "is causal"
    if enable_gqa:
        return "has grouped heads"
    if query.dim() != 4 or key.shape != value.shape or query.shape[:2] != key.shape[:2]:
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in (query, key, value))
        return f"is not (B, H, length, D) three times: {shapes}"
    if size % 8 or size > MAX_HEAD_SIZE:
        return f"has a head size of {size}, not a multiple of 8 up to {MAX_HEAD_SIZE}"
    return None


def _replacement(
    query: Tensor, key: Tensor, value: Tensor, *unused: object, scale: float | None = None, **_: Any
) -> Tensor:
    result: Tensor = torch.ops.fastdiff.attention(query, key, value, scale)
    return result


@contextmanager
def _paths(module: nn.Module) -> Iterator[list[str]]:
    """Keep the paths of the submodules that are running, innermost last."""
    running = [""]

    def enter(path: str, *_: object) -> None:
        running.append(path)

    def leave(*_: object) -> None:
        running.pop()

    handles = []
    for path, part in module.named_modules():
        handles.append(part.register_forward_pre_hook(partial(enter, path)))
        handles.append(part.register_forward_hook(leave))
    try:
        yield running
    finally:
        for handle in handles:
            handle.remove()


def _rewrite(module: torch.fx.GraphModule) -> tuple[torch.fx.GraphModule, list[AttentionCall]]:
    shared = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    rewritten = copy.deepcopy(module, shared)
    calls = []
    for node in rewritten.graph.find_nodes(op="call_function", target=_ATEN):
        values = [arg.meta["val"] if isinstance(arg, torch.fx.Node) else arg for arg in node.args]
        kept = _reason_to_keep(*values, **node.kwargs)
        *_, (path, _kind) = node.meta.get("nn_module_stack", {"": ("", None)}).values()
        calls.append(AttentionCall(path, kept))
        if kept is None:
            node.target = torch.ops.fastdiff.attention.default
            node.args = (*node.args[:3], node.kwargs.get("scale"))
            node.kwargs = {}
    rewritten.recompile()
    return rewritten, calls
