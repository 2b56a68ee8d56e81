"""Checks a GPU kernel the first time it runs on a device. One that fails is not used there.

Tests on other machines cannot tell whether a kernel works with the driver, compiler and GPU of this
one. Every GPU kernel therefore first runs on random inputs (`fastdiff.kernels.checks`). The verdict
is kept under the cache folder, by device, driver, compiler and the content of the kernels, so the
check runs once. A kernel that raises is reported there too, but the next process tries it again,
since a missing header or too little memory may be mended by then. It is not tried again if its
process could no longer use the device afterwards.
"""

from __future__ import annotations

import hashlib
import json
import os
import traceback
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from fastdiff.kernels.checks import CHECKS, Kernel
from fastdiff.kernels.gpu_kernels import described
from fastdiff.paths import cache_folder


@dataclass(frozen=True)
class Verdict:
    """The result of the check of a kernel.

    Attributes
    ----------
    operator, language : str
    device : str
        Name, compute capability, driver, torch and Triton.
    mismatch : str or None
        The first difference, or the error that was raised; None if the kernel may be used.
    report : str
        Path of the JSON file with these facts, for a bug report, or why there is none.
    traceback : str or None
        The traceback of the error.
    """

    operator: str
    language: str
    device: str
    mismatch: str | None
    report: str
    traceback: str | None = None


def verdict(operator: str, language: str, kernel: Kernel, device: torch.device) -> Verdict:
    """Check `kernel` on `device`, or read the result of an earlier check.

    Parameters
    ----------
    operator : str
        One of `fastdiff.kernels.checks.CHECKS`.
    language : str
        The language that the kernel is written in.
    kernel : callable
        Takes the operator's arguments. Errors that it raises are not caught: see `raised`.
    device : torch.device
    """
    path = _path(operator, language, device)
    if (recalled := _recall(path)) is not None:
        return recalled
    mismatch = CHECKS[operator](kernel, device)
    return _keep(Verdict(operator, language, describe_device(device), mismatch, str(path)))


def raised(operator: str, language: str, error: Exception, device: torch.device) -> Verdict:
    """Report a kernel that raised `error` when it was loaded, compiled or run.

    Parameters
    ----------
    operator, language, device
        As for `verdict`. If the device is lost, `verdict` returns this report from now on.
    error : Exception
        The error that was caught.
    """
    mismatch = described(error)
    path = _path(operator, language, device)
    if is_lost(device):
        mismatch += "; the GPU is lost to this process: start it again, and it goes without"
    else:
        path = path.with_suffix(".error.json")
    trace = "".join(traceback.format_exception(error))
    return _keep(Verdict(operator, language, describe_device(device), mismatch, str(path), trace))


def is_lost(device: torch.device) -> bool:
    """Whether this process cannot use the device any more, as after an illegal memory access."""
    if device.type != "cuda":
        return False
    try:
        torch.cuda.synchronize(device)
    except Exception:  # whatever the driver raises
        return True
    return False


def describe_device(device: torch.device) -> str:
    """Return what the behaviour of a compiled kernel may depend on besides its source."""
    software = f"torch {torch.__version__}"
    with suppress(PackageNotFoundError):
        software += f", Triton {version('triton')}"
    if device.type != "cuda":
        return f"{device.type}, {software}"
    properties = torch.cuda.get_device_properties(device)
    driver = getattr(torch._C, "_cuda_getDriverVersion", lambda: "of unknown version")()
    return (
        f"{properties.name}, compute capability {properties.major}.{properties.minor}, "
        f"CUDA driver {driver}, {software}"
    )


def content_hash() -> str:
    """Return a hash of the Python files of this package, and of the compiled kernels."""
    room = Path(__file__).parent
    digest = hashlib.sha256()
    for path in sorted([*room.rglob("*.py"), *room.parent.glob("_cuda*.so")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def _path(operator: str, language: str, device: torch.device) -> Path:
    """Return where the verdict on a kernel is kept."""
    facts = {
        "operator": operator,
        "language": language,
        "device": describe_device(device),
        "content": content_hash(),
    }
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return cache_folder() / "kernels" / f"{operator}-{language}-{key}.json"


def _recall(path: Path) -> Verdict | None:
    try:
        record = json.loads(path.read_text())
        return Verdict(**record)
    except (OSError, ValueError, TypeError):
        return None


def _keep(found: Verdict) -> Verdict:
    """Write the report. If the folder cannot be written to, there is only no file."""
    path = Path(found.report)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        partial.write_text(json.dumps(asdict(found), indent=1))
        partial.replace(path)
    except OSError as error:
        return replace(found, report=f"no report: {error}")
    return found
