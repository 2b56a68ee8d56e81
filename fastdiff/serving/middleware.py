"""What every request passes on its way: its id, the security headers, the API key."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import re
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastdiff.serving.faults import ApiError

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_LINGER_SECONDS, _LINGER_BYTES = 1.0, 1 << 20
_SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


class RequestContext:
    """Gives a request its id, the client's own if it sent one, and every response its headers."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, with_headers)


class LingeringClose:
    """Reads on for a moment where a refusal closes the connection while its body is still coming.

    A socket that is closed with bytes unread is reset, and what it had sent may be lost: the client
    would see a broken connection and not why it was refused (RFC 9112, section 9.6).
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body_ended = closes = False

        async def noting_its_end() -> Message:
            nonlocal body_ended
            message = await receive()
            body_ended = not message.get("more_body", False)
            return message

        async def read_on() -> None:
            unread = _LINGER_BYTES
            while unread > 0 and not body_ended:
                unread -= len((await noting_its_end()).get("body", b""))

        async def lingering(message: Message) -> None:
            nonlocal closes
            if message["type"] == "http.response.start":
                closes = Headers(scope=message).get("connection") == "close"
            if message["type"] != "http.response.body" or message.get("more_body") or not closes:
                await send(message)
                return
            await send({**message, "more_body": True})
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(read_on(), _LINGER_SECONDS)
            await send({"type": "http.response.body"})

        await self._app(scope, noting_its_end, lingering)


class ApiKeys:
    """Refuses requests without a key.

    Parameters
    ----------
    app : ASGIApp
    keys : sequence of str
        At least one.
    guarded : sequence of str
        Paths that need one, and beginnings of paths, with a slash at the end.
    open_prefix : str
        Beginning of the paths among them that need none.
    """

    def __init__(
        self, app: ASGIApp, keys: Sequence[str], guarded: Sequence[str], open_prefix: str
    ) -> None:
        self._app, self._open = app, open_prefix
        self._paths = {path for path in guarded if not path.endswith("/")}
        self._prefixes = tuple(path for path in guarded if path.endswith("/"))
        self._digests = [_digest(key) for key in keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http" or self._is_open(scope["path"]) or self._knows(scope):
            await self._app(scope, receive, send)
            return
        error = ApiError(
            401, "expected a valid key as Authorization: Bearer KEY", code="invalid_api_key"
        )
        await JSONResponse(error.body, error.status, error.headers)(scope, receive, send)

    def _is_open(self, path: str) -> bool:
        guarded = path in self._paths or path.startswith(self._prefixes)
        return not guarded or path.startswith(self._open)

    def _knows(self, scope: Scope) -> bool:
        """Compare with every key in constant time: digests have one length, and all are seen."""
        scheme, _, key = Headers(scope=scope).get("authorization", "").partition(" ")
        given = _digest(key.strip())
        matches = [hmac.compare_digest(given, digest) for digest in self._digests]
        return scheme.lower() == "bearer" and any(matches)


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("latin-1", "replace")).digest()
