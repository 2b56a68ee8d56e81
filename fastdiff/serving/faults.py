"""What goes wrong with a request, in the shape in which OpenAI's API tells it."""

from __future__ import annotations

import math
from typing import Any

from fastdiff.errors import (
    Cancelled,
    DeadlineImpossible,
    InvalidArgument,
    NonFiniteOutput,
    Overloaded,
    TableError,
    Unavailable,
)

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}
_OUTCOMES = {429: "refused", 499: "cancelled", 503: "unavailable", 504: "deadline"}
# These may be sent before the body was read to its end. The rest of it may still be on its way, so
# the connection is closed.
_BODY_UNREAD = (401, 408, 413, 415)
CLIENT_GONE = 499
"""Status of a request whose client left; nobody reads it but the log and the metrics."""


class ApiError(Exception):
    """A request that ends with an HTTP error.

    Parameters
    ----------
    status : int
        HTTP status.
    message : str
        What was expected, what came, what to do.
    code : str
        Stable name for programs.
    param : str or None
        The parameter at fault.
    retry_after : float or None
        Seconds after which to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry_after = status, code, param, retry_after

    @property
    def outcome(self) -> str:
        """How the metrics count it."""
        return _OUTCOMES.get(self.status, "failed" if self.status >= 500 else "invalid")

    @property
    def body(self) -> dict[str, Any]:
        """The error as OpenAI's clients read it."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {
            "message": str(self),
            "type": _TYPES.get(self.status, kind),
            "param": self.param,
            "code": self.code,
        }
        return {"error": error}

    @property
    def headers(self) -> dict[str, str]:
        """The headers that go with it; ``Retry-After`` is in whole seconds, at least 1."""
        headers = {"WWW-Authenticate": "Bearer"} if self.status == 401 else {}
        if self.status in _BODY_UNREAD:
            headers["Connection"] = "close"
        if self.retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(self.retry_after)))
        return headers


def invalid(param: str | None, message: str, code: str = "invalid_value") -> ApiError:
    """Return the error of a parameter with a wrong value."""
    return ApiError(400, message, code=code, param=param)


def client_gone() -> ApiError:
    """Return the error of a request whose client has left."""
    return ApiError(CLIENT_GONE, "the client closed the connection", code="client_gone")


def refusal(error: Exception, deadline_seconds: float | None) -> ApiError:
    """Return why a worker gave no place.

    Parameters
    ----------
    error : Exception
        What `Worker.reserve` raised.
    deadline_seconds : float or None
        How long the client would wait.
    """
    if isinstance(error, Overloaded):
        return ApiError(429, str(error), code="queue_full", retry_after=error.retry_after)
    if isinstance(error, DeadlineImpossible):
        late = error.estimate_seconds - (deadline_seconds or 0.0)
        return ApiError(
            429, str(error), code="deadline_impossible", param="deadline_ms", retry_after=late
        )
    if isinstance(error, Unavailable):
        return ApiError(503, str(error), code="model_unavailable", retry_after=1)
    raise error


def failure(error: BaseException, *, has_deadline: bool) -> ApiError:
    """Return how a job's failure is told to its client.

    Parameters
    ----------
    error : BaseException
        From `fastdiff.serving.jobs.Failed`; nobody here cancelled the job.
    has_deadline : bool
        Whether the job had a deadline, for then a cancelled job is one that missed it.
    """
    if isinstance(error, NonFiniteOutput):
        return ApiError(500, str(error), code="non_finite_output")
    if isinstance(error, Cancelled):
        if has_deadline:
            return ApiError(504, str(error), code="deadline_exceeded", param="deadline_ms")
        return ApiError(503, str(error), code="server_stopping", retry_after=1)
    if isinstance(error, (InvalidArgument, TableError)):
        return invalid("solver", str(error))
    return ApiError(500, "the engine failed; the server's log tells why", code="engine_error")
