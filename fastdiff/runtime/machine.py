"""What a measurement depends on besides the model."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
import re
from pathlib import Path

import torch

from fastdiff.denoisers import engine_status
from fastdiff.kernels import active_level


@functools.cache
def processor() -> str:
    """Return the processor's name where the system tells it."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    return found.group(1) if found else platform.processor() or platform.machine()


def describe_machine() -> str:
    """Return processor, threads and kernel level, for reports."""
    return f"{processor()}, {torch.get_num_threads()} threads, {active_level()} kernels"


def fingerprint() -> str:
    """Return a key that changes with the processor, the threads or the version of any engine."""
    facts = {
        "machine": [platform.system(), platform.machine(), describe_machine()],
        "engines": {name: status.detail for name, status in engine_status().items()},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
