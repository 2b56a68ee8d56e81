"""Torch, operator by operator: runs every module, and is the reference for the other backends.

Not yet executed on a GPU, which `eager-cuda` runs on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from fastdiff.backends.base import Backend, BackendStatus, Denoiser, require_usable
from fastdiff.backends.cuda import DEVICE, cuda_status, full_float32
from fastdiff.exporting.attention import replace_attention
from fastdiff.kernels.attention import choosing
from fastdiff.modes import float32_default
from fastdiff.networks import Network
from fastdiff.networks.precision import DTYPES, HOST, AtPrecision


class EagerBackend(Backend):
    """Evaluates the module itself under ``torch.inference_mode``.

    Parameters
    ----------
    name : str
    device : torch.device
    """

    precisions = ("float32", "bfloat16", "float16")
    sources = ("module",)

    def __init__(self, name: str = "eager", device: torch.device = HOST) -> None:
        self.name, self.device = name, device

    def status(self) -> BackendStatus:
        torch_version = f"torch {torch.__version__}"
        if self.device.type == "cuda":
            return cuda_status(torch_version)
        return BackendStatus(True, f"{torch_version}, {torch.get_num_threads()} threads")

    def build(self, network: Network, precision: str, blobs: Path | None = None) -> EagerDenoiser:
        require_usable(self)
        return EagerDenoiser(network, precision, self.name, self.device)


class EagerDenoiser(Denoiser):
    """A private copy of the module at one precision, so that the caller's stays as it is.

    On a GPU its attention is fastdiff's operator, which measures the kernels that there are.
    """

    def __init__(
        self, network: Network, precision: str, backend: str, device: torch.device
    ) -> None:
        self.backend, self.precision, self.device = backend, precision, device
        self.input_dtype = self.output_dtype = DTYPES[precision]
        self.output_channels = network.probe()
        module = AtPrecision(network.require_module(), self.input_dtype, device)
        self._module = with_attention(module, network) if device.type == "cuda" else module

    def bind(
        self, x: Tensor, t: Tensor, conditioning: Mapping[str, Tensor], out: Tensor
    ) -> Callable[[], object]:
        def run() -> None:
            with torch.inference_mode(), float32_default, full_float32(self.device):
                out.copy_(self._module(x, t, conditioning))

        if self.device.type == "cuda":
            with choosing():  # attention of these shapes is measured now; a graph comes later
                run()
        return run


def with_attention(module: AtPrecision, network: Network) -> nn.Module:
    """Return `module` with ``fastdiff::attention`` in it wherever that operator can serve."""
    x, t, conditioning = network.example(network.batch or 1)
    device = next(module.parameters(), x).device
    moved = [x.to(device), t.to(device), {k: v.to(device) for k, v in conditioning.items()}]
    replaced, _ = replace_attention(module, moved)
    return replaced


EAGER = EagerBackend()
EAGER_CUDA = EagerBackend("eager-cuda", DEVICE)
