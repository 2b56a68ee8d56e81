"""Wrappers around a module that computes the same without them."""

from __future__ import annotations

import copy

from torch import nn
from torch.optim.swa_utils import AveragedModel

_CONTAINERS = (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)

# Where accelerate keeps the forward that it has replaced: by mixed precision, or by moving weights.
_REPLACED_FORWARD = ("_original_forward", "_old_forward")


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module that wrappers were given; `module` itself if there is none.

    Taken off are ``torch.compile``, data parallelism, averages of weights, models of peft, whose
    adapters are layers of the module, and what accelerate has put before the module's forward.
    """
    while (inner := _inner(module)) is not None:
        module = inner
    return module


def _inner(module: nn.Module) -> nn.Module | None:
    if "_orig_mod" in module._modules:  # torch.compile
        return module.get_submodule("_orig_mod")
    if isinstance(module, _CONTAINERS):
        return module.get_submodule("module")
    of_peft = [base.__name__ for base in type(module).__mro__ if base.__module__[:5] == "peft."]
    if "BaseTuner" in of_peft:
        return module.get_submodule("model")
    if of_peft[:1] in (["PeftModel"], ["PeftMixedModel"]):
        return module.get_submodule("base_model")
    kept = [name for name in _REPLACED_FORWARD if name in vars(module)]
    return _with_forward(module, vars(module)[kept[0]]) if kept else None


def _with_forward(module: nn.Module, forward: object) -> nn.Module:
    """Return a module that shares everything with `module` but its forward."""
    bare = copy.copy(module)
    for name in ("forward", "_hf_hook", *_REPLACED_FORWARD):
        vars(bare).pop(name, None)
    if getattr(forward, "__func__", None) is not type(module).forward:
        vars(bare)["forward"] = forward
    return bare
