"""Compile what a host function would launch, for a GPU that is not there.

A driver that only names its target lets Triton specialise on the true arguments (alignment,
divisibility by 16, the integer 1) exactly as a launch does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase

from fastdiff.kernels import triton_module

NVIDIA = {f"sm_{arch}": GPUTarget("cuda", arch, 32) for arch in (80, 90, 100, 120)}
AMD = {arch: GPUTarget("hip", arch, 64) for arch in ("gfx90a", "gfx942")}


class NamedTarget(DriverBase):
    """As much of a driver as compilation asks for."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_interface(self) -> Any:
        return None

    def get_benchmarker(self) -> Any:
        return None

    def map_python_to_cpp_type(self, ty: str) -> str:
        return ty


def compiled(call: Callable[[], Any], target: GPUTarget, enable_fp_fusion: bool = False) -> Any:
    """The one kernel that ``call`` launches, compiled for ``target`` instead."""
    kernels = []

    def compile_only(
        kernel: Any, programs: int, device: torch.device, *arguments: Any, **meta: Any
    ) -> None:
        kernel.device_caches.clear()  # they do not look at the target again
        meta["enable_fp_fusion"] = enable_fp_fusion
        kernels.append(kernel.warmup(*arguments, grid=(programs,), **meta))

    with (
        patch.object(triton.runtime.driver, "_active", NamedTarget(target)),
        patch.object(triton_module, "launch", compile_only),
        patch.object(triton_module, "check_device", lambda tensor: tensor.device),
    ):
        call()
    (kernel,) = kernels
    return kernel
