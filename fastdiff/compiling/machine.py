"""What a measurement depends on besides the model."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
from pathlib import Path

import torch

from fastdiff.backends import backend_status
from fastdiff.kernels import active_level


@functools.cache
def _cpuinfo(field: str) -> str:
    """Return what Linux says of the first core; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    found = re.search(rf"^{field}\s*: (.*)", path.read_text(), re.M) if path.exists() else None
    return found.group(1) if found else ""


def processor() -> str:
    """Return the processor's name where the system tells it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def describe_machine() -> str:
    """Return processor, threads, kernel level and GPU, for reports."""
    host = f"{processor()}, {torch.get_num_threads()} threads, {active_level()} kernels"
    return ", ".join([host, *_gpu()[:1]])


@functools.cache
def _gpu() -> list[str]:
    """Return name, compute capability and driver of the GPU; empty without one."""
    if not torch.cuda.is_available():
        return []
    driver = Path("/proc/driver/nvidia/version")
    return [
        torch.cuda.get_device_name(),
        str(torch.cuda.get_device_capability()),
        driver.read_text() if driver.exists() else "",
    ]


def fingerprint() -> str:
    """Return a key that changes with all that compiled code and its speed depend on.

    That is the processor and its instruction sets, the threads, the GPU and its driver, and the
    versions of fastdiff and of every backend.
    """
    from fastdiff import __version__

    facts = {
        "fastdiff": __version__,
        "machine": [platform.system(), platform.machine(), describe_machine(), _gpu()],
        "instructions": _cpuinfo("flags") or _cpuinfo("Features"),
        "backends": {name: status.detail for name, status in backend_status().items()},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
