"""Requests to one of several replicas, and to another one if that is lost.

An image is a function of its request and seed. The router draws the seed, so a replica that dies in
the middle of a request costs time and nothing else: another one makes the same image. The replicas'
answers are ASGI messages; what carries them is the business of `Replicas`, and not known here.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Any, Protocol

from prometheus_client import Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fastdiff.serving.addresses import file_urls
from fastdiff.serving.answers import GENERATIONS, retry_after
from fastdiff.serving.faults import CLIENT_GONE, ApiError
from fastdiff.serving.generations import unless_gone
from fastdiff.serving.images import ImageStore
from fastdiff.serving.limits import read_request
from fastdiff.serving.protocol import ImageRequest
from fastdiff.serving.replies import error_event
from fastdiff.serving.service import Settings

_BUSY_STATUSES = (429, 503)
# A request that loses more replicas than this is given up: it may be what kills them.
_MOST_LOSSES = 3
_LEAST_WAIT_SECONDS = 0.1
_log = logging.getLogger("fastdiff.serving")


class ReplicaLost(Exception):
    """A replica died before it had answered to the end."""


class Replicas(Protocol):
    """What the router knows of the replicas."""

    def answer(self, body: bytes, request_id: str) -> AsyncGenerator[Message, None]:
        """Have one of them answer a request for images; yields its ASGI messages.

        Raises
        ------
        ReplicaLost
            It died on the way.
        """
        ...

    async def reports(self) -> list[dict[str, Any]]:
        """Return what every replica that can be reached says of itself."""
        ...


async def answer(app: ASGIApp, body: bytes, request_id: str) -> AsyncGenerator[Message, None]:
    """Yield the messages with which `app` answers ``POST /v1/images/generations``.

    Closing the iterator is to `app` what a client is that leaves.
    """
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": GENERATIONS,
        "root_path": "",
        "query_string": b"",
        "headers": [
            (b"content-type", b"application/json"),
            (b"x-request-id", request_id.encode()),
        ],
    }
    parts = [{"type": "http.request", "body": body, "more_body": False}]
    messages: asyncio.Queue[Message | None] = asyncio.Queue()

    async def receive() -> Message:
        return parts.pop() if parts else await asyncio.Future()

    async def run() -> None:
        try:
            await app(scope, receive, messages.put)
        finally:
            messages.put_nowait(None)

    task = asyncio.ensure_future(run())
    try:
        while (message := await messages.get()) is not None:
            yield message
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)  # `app` logs its errors itself.


class Relay:
    """The ASGI application behind ``POST /v1/images/generations`` of a router.

    Parameters
    ----------
    replicas : Replicas
    settings : Settings
        Its limits are checked before a replica is asked.
    images : ImageStore
        Keeps the images of requests that want URLs: the replica that made one may be gone, or not
        be the one that is asked for it.
    lost : Counter
        Counts requests that lost their replica, each time.
    patience_seconds : float
        How long a request that lost its replica waits for a place on another one.
    """

    def __init__(
        self,
        replicas: Replicas,
        settings: Settings,
        images: ImageStore,
        lost: Counter,
        patience_seconds: float = 120.0,
    ) -> None:
        self._replicas, self._settings, self._images = replicas, settings, images
        self._lost, self._patience_seconds = lost, patience_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request, arrived = Request(scope, receive), time.monotonic()
        ask = await read_request(request, self._settings.limits)

        def with_urls(body: bytes) -> bytes:
            url = file_urls(scope, self._settings.public_url)
            return self._store(body, ask.format, url)

        response = _RelayedResponse(send, with_urls if ask.response_format == "url" else None)
        ask = ask.model_copy(update={"response_format": None})
        request_id = scope.get("state", {}).get("request_id", "")
        try:
            await unless_gone(request.receive, self._deliver(ask, request_id, arrived, response))
        except ApiError as error:
            if error.status == CLIENT_GONE:
                return
            if not response.began:
                raise
            await response.end(error_event(error))

    async def _deliver(
        self, ask: ImageRequest, request_id: str, arrived: float, response: _RelayedResponse
    ) -> None:
        """Ask replicas until one has answered to the end."""
        losses, patient_until = 0, math.inf
        while True:
            body = _remaining(ask, arrived).model_dump_json(exclude_none=True).encode()
            try:
                async with aclosing(self._replicas.answer(body, request_id)) as messages:
                    accepted = losses > 0 and time.monotonic() < patient_until
                    wait = await response.relay(messages, accepted=accepted)
                if wait is None:
                    return
                await asyncio.sleep(max(wait, _LEAST_WAIT_SECONDS))
            except ReplicaLost as error:
                if response.ended:
                    return
                losses += 1
                self._lost.inc()
                patient_until = min(patient_until, time.monotonic() + self._patience_seconds)
                fields = {"request_id": request_id, "losses": losses}
                _log.warning("a replica was lost", extra={"fields": fields})
                if losses > _MOST_LOSSES:
                    message = f"{losses} replicas died while they worked on this request"
                    raise ApiError(500, message, code="replica_lost") from error

    def _store(self, body: bytes, format: str, url: Callable[[str], str]) -> bytes:
        """Return an answer with its images kept here and replaced by their URLs."""
        reply = json.loads(body)
        for image in reply["data"]:
            image["url"] = url(self._images.put(base64.b64decode(image.pop("b64_json")), format))
        return json.dumps(reply).encode()


def _remaining(ask: ImageRequest, arrived: float) -> ImageRequest:
    """Return `ask` with what is left of its deadline."""
    if ask.deadline_ms is None:
        return ask
    left = ask.deadline_ms - math.floor((time.monotonic() - arrived) * 1000)
    if left <= 0:
        raise ApiError(
            504, "the deadline has passed", code="deadline_exceeded", param="deadline_ms"
        )
    return ask.model_copy(update={"deadline_ms": left})


class _RelayedResponse:
    """The one response that a client gets, from however many replicas.

    Attributes
    ----------
    began, ended : bool
        Whether it has had the status, and the last of the body.
    """

    def __init__(self, send: Send, rewrite: Callable[[bytes], bytes] | None) -> None:
        self._send, self._rewrite = send, rewrite
        self._steps: dict[int, float] = {}  # The step of the last event about each image.
        self.began = self.ended = False

    async def relay(self, messages: AsyncIterator[Message], *, accepted: bool) -> float | None:
        """Send what is new in a replica's answer.

        Parameters
        ----------
        messages : async iterator
            The start of a response, then its body: of a stream, an event in each message.
        accepted : bool
            Whether a replica had taken the request, so that a busy one must not turn it away.

        Returns
        -------
        float or None
            Seconds after which to ask again, if the replica is busy; None at the end.
        """
        start = await anext(messages)
        if accepted and start["status"] in _BUSY_STATUSES:
            return retry_after(Headers(raw=start["headers"]))
        async for message in messages:
            if self.began and start["status"] != 200:
                # A later replica refuses, when the client has had its status from an earlier one.
                raise _fault(start["status"], message["body"])
            message = self._edit(start, message)
            if not self.began:
                # The start waits for the first part of the body: if the replica is lost before, the
                # client has seen nothing of it.
                self.began = True
                await self._send(start)
            self.ended = not message.get("more_body")
            if self.ended or self._is_news(message["body"]):
                await self._send(message)
        return None

    async def end(self, event: bytes) -> None:
        """Send the last event of a stream that cannot go on."""
        await self._send({"type": "http.response.body", "body": event, "more_body": False})

    def _edit(self, start: Message, message: Message) -> Message:
        """Return the body that the client wants, and correct its length."""
        if self._rewrite is None or start["status"] != 200:
            return message
        body = self._rewrite(message["body"])
        MutableHeaders(raw=start["headers"])["content-length"] = str(len(body))
        return {**message, "body": body}

    def _is_news(self, event: bytes) -> bool:
        """Return whether the client has not had an event of a stream, and remember it."""
        _, found, data = event.partition(b"data: ")
        told = json.loads(data) if found else {}  # A heartbeat has no data.
        image, step = told.get("image_index"), told.get("step", math.inf)
        if image is None:
            return True
        if step <= self._steps.get(image, 0):
            return False
        self._steps[image] = step
        return True


def _fault(status: int, body: bytes) -> ApiError:
    """Return the error that a replica answered."""
    told = json.loads(body)["error"]
    return ApiError(status, told["message"], code=told["code"], param=told["param"])
