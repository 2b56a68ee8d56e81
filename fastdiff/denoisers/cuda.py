"""What the engines that run on an NVIDIA GPU share: finding one, and its memory.

Nothing here has been executed on a GPU yet.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

DEVICE = "cuda:0"
_DRIVER = "libcuda.so.1"


def missing_for_cuda() -> list[str]:
    """Return what stands between this process and a GPU, outermost first; empty if nothing does.

    Cheap, and starts no CUDA context.
    """
    missing = []
    try:
        ctypes.CDLL(_DRIVER)
    except OSError:
        missing.append(f"no NVIDIA driver here ({_DRIVER} does not load)")
    if torch.version.cuda is None:
        missing.append(
            f"torch {torch.__version__} is built without CUDA (https://pytorch.org has the command)"
        )
    elif not missing and not torch.cuda.is_available():
        missing.append("the NVIDIA driver finds no GPU that torch can use (nvidia-smi says more)")
    return missing


class DeviceBuffers:
    """The tensors of one bound call, on the device.

    Those that are there already are used as they are. The others get a twin, which costs a copy
    per call in each direction.

    Parameters
    ----------
    inputs : mapping of str to Tensor
        All inputs by name.
    out : Tensor
    device : str

    Attributes
    ----------
    inputs : dict of str to Tensor
    out : Tensor
        What the engine reads and writes.
    """

    def __init__(self, inputs: Mapping[str, Tensor], out: Tensor, device: str = DEVICE) -> None:
        self.inputs = {name: value.to(device) for name, value in inputs.items()}
        self.out = out.to(device)
        self._uploads = [(self.inputs[k], v) for k, v in inputs.items() if self.inputs[k] is not v]
        self._host_out = out if self.out is not out else None

    def upload(self) -> None:
        """Copy what the caller changed to the device, in order with torch's current stream."""
        for twin, value in self._uploads:
            twin.copy_(value, non_blocking=True)

    def download(self) -> None:
        """Wait for the output and copy it to the caller, if it asked for it on the host."""
        if self._host_out is not None:
            self._host_out.copy_(self.out)
