"""What a server's answers mean to its clients."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from types import ModuleType

from fastdiff.errors import (
    Cancelled,
    DeadlineImpossible,
    FastdiffError,
    InvalidArgument,
    ModelOutputError,
    Overloaded,
    SamplingError,
    Unavailable,
)

GENERATIONS = "/v1/images/generations"
"""Where requests for images go."""

_FAILURES = {"non_finite_output": ModelOutputError, "deadline_exceeded": Cancelled}


def require_httpx() -> ModuleType:
    """Return httpx.

    Raises
    ------
    Unavailable
        It is not installed.
    """
    try:
        return importlib.import_module("httpx")
    except ImportError as error:
        raise Unavailable("clients need httpx: pip install 'fastdiff-runtime[serve]'") from error


def authorization(api_key: str | None) -> dict[str, str]:
    """Return the headers that show `api_key`."""
    return {} if api_key is None else {"Authorization": f"Bearer {api_key}"}


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds after which the server wants to be asked again; 0 if it does not say."""
    try:
        return max(0.0, float(headers.get("Retry-After", "0")))
    except ValueError:  # a proxy may name a date instead; the doubling waits serve as well
        return 0.0


def to_error(status: int, headers: Mapping[str, str], text: str) -> FastdiffError:
    """Return what an answer without success means.

    Parameters
    ----------
    status : int
        HTTP status.
    headers : mapping of str to str
    text : str
        The body: ``{"error": {"message": ..., "code": ...}}`` if fastdiff wrote it.
    """
    try:
        fault = json.loads(text)["error"]
        message, code = str(fault["message"]), fault["code"]
    except (ValueError, LookupError, TypeError):
        message, code = f"the server answered {status}: {text[:200]}", None
    if code == "deadline_impossible":
        return DeadlineImpossible(message, retry_after(headers))
    if status == 429:
        return Overloaded(message, retry_after(headers))
    if status == 503:
        return Unavailable(message)
    if status == 401:
        return InvalidArgument(f"api_key: {message}")
    if status < 500:
        return InvalidArgument(message)
    return _FAILURES.get(code, SamplingError)(message)
