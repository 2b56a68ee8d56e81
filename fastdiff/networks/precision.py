"""A network's module at one precision, for the backends that start from the module."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from fastdiff.errors import Unavailable
from fastdiff.networks.network import Network
from fastdiff.networks.session import first_line
from fastdiff.networks.weights import evaluation_copy

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
HOST = torch.device("cpu")


def in_hardware(precision: str, device: torch.device) -> bool:
    """Whether `device` has instructions that torch computes `precision` with.

    Without them a large network takes tens of times as long as in float32 on a CPU.
    """
    if device.type == "cuda":
        return precision != "bfloat16" or torch.cuda.get_device_capability(device) >= (8, 0)
    probes = {"bfloat16": "_is_mkldnn_bf16_supported", "float16": "_is_mkldnn_fp16_supported"}
    if precision not in probes:
        return True
    probe = getattr(torch.ops.mkldnn, probes[precision], None)  # absent where oneDNN is
    return probe is not None and bool(probe())


class AtPrecision(nn.Module):
    """A private copy of `module` with weights and inputs in `dtype`; the caller's stays as it is.

    It is on `device`, where its inputs must be. x and floating conditioning are rounded on the way
    in; t stays float32, because bfloat16 has no odd integers above 256.
    """

    def __init__(self, module: nn.Module, dtype: torch.dtype, device: torch.device = HOST) -> None:
        super().__init__()
        self.module = evaluation_copy(module).to(device, dtype)
        self.dtype, self.device = dtype, device

    def forward(self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor]) -> Tensor:
        """Map (B, C, ...) to the module's output, (B, C or 2C, ...)."""
        rounded = {
            name: value.to(self.dtype) if value.dtype.is_floating_point else value
            for name, value in conditioning.items()
        }
        output: Tensor = self.module(x.to(self.dtype), t, **rounded)
        return output


def trace(
    module: AtPrecision, network: Network, dtype: torch.dtype
) -> torch.export.ExportedProgram:
    """Return the graph of `module` for x of `dtype`, t and conditioning.

    Its batch axis is open, unless the network's is fixed.

    Raises
    ------
    Unavailable
        torch cannot export the module; the message carries its reason.
    """
    x, t, conditioning = network.example(network.batch or 2)
    # diffusers compares the batch with 64, so no range is said
    rows = {} if network.batch else {0: torch.export.Dim.DYNAMIC}
    shapes = (rows, rows, dict.fromkeys(conditioning, rows))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of its own deprecations
            inputs = tree_map(lambda value: value.to(module.device), (x.to(dtype), t, conditioning))
            return torch.export.export(module, inputs, dynamic_shapes=shapes)
    except Exception as error:  # torch raises many types here; all mean the same to a caller
        raise Unavailable(f"torch cannot export {network.name}: {first_line(error)}") from error
