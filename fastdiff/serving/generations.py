"""``POST /v1/images/generations``: one request from its first byte to its last.

A request is checked at the door, gets its place in the queue, and only then is worked on. Whatever
happens to it after that, its place is given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from fastdiff.errors import (
    DeadlineImpossible,
    FastdiffError,
    InvalidArgument,
    Overloaded,
    TableError,
    Unavailable,
)
from fastdiff.serving.addresses import file_urls
from fastdiff.serving.faults import CLIENT_GONE, ApiError, client_gone, failure, invalid, refusal
from fastdiff.serving.jobs import Failed, Finished, Reservation
from fastdiff.serving.limits import read_body
from fastdiff.serving.mailbox import Mailbox
from fastdiff.serving.models import CheckedRequest, Served
from fastdiff.serving.protocol import ImageRequest, read_request
from fastdiff.serving.replies import Replies, error_event
from fastdiff.serving.service import Service

T = TypeVar("T")

_HEARTBEAT_SECONDS = 10.0
_log = logging.getLogger("fastdiff.serving")


@dataclass
class _Record:
    """What the log and the metrics will say of a request; never its prompt."""

    request_id: str
    model: str = ""
    status: int = 200
    outcome: str = "ok"
    code: str | None = None
    images: int = 0
    format: str = "png"
    steps: int = 0
    stream: bool = False
    queue_seconds: float = 0.0
    run_seconds: float = 0.0


@dataclass(frozen=True)
class _Admitted:
    """A request that holds a place."""

    ask: ImageRequest
    checked: CheckedRequest
    reservation: Reservation
    mailbox: Mailbox
    replies: Replies

    @property
    def progress_every(self) -> int:
        """Steps between estimates, so that at most as many come as were asked for."""
        wanted = self.ask.partial_images or 0
        return -(-self.checked.demand.steps // (wanted + 1)) if wanted else 0


class Generations:
    """The ASGI application behind the route."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope, receive)
        with self._account(request) as record:
            try:
                await self._answer(request, record, send)
            except ApiError as error:
                record.status, record.outcome, record.code = error.status, error.outcome, error.code
                if error.status != CLIENT_GONE:
                    response = JSONResponse(error.body, error.status, error.headers)
                    await response(scope, receive, send)

    async def _answer(self, request: Request, record: _Record, send: Send) -> None:
        arrived, limits = time.monotonic(), self._service.settings.limits
        ask = read_request(await read_body(request, limits))
        limits.check(ask)
        ask = ask.seeded()
        record.stream, record.images, record.format = bool(ask.stream), ask.count, ask.format
        record.model, served = self._service.find(ask.model)
        admitted = self._admit(record.model, served, ask, arrived)
        record.steps = admitted.checked.steps
        try:
            await unless_gone(request.receive, self._start(admitted))
            if ask.stream:
                await self._stream(request, record, admitted, send)
            else:
                await self._respond(request, record, admitted, send)
        finally:
            self._service.release(admitted.reservation)
            self._service.metrics.dropped_partials.labels(record.model).inc(
                admitted.mailbox.dropped
            )

    def _admit(self, name: str, served: Served, ask: ImageRequest, arrived: float) -> _Admitted:
        """Check the request against its model and reserve its place; nothing else is done yet."""
        checked = served.model.check(ask)
        self._service.settings.limits.check_pixels(ask.count, checked.width, checked.height)
        seconds = None if ask.deadline_ms is None else ask.deadline_ms / 1000
        if seconds is not None:
            checked = replace(checked, demand=replace(checked.demand, deadline=arrived + seconds))
        try:
            reservation = served.worker.reserve(checked.demand)
        except (Overloaded, DeadlineImpossible, Unavailable) as error:
            raise refusal(error, seconds) from error
        self._service.hold(reservation)
        estimate = reservation.estimate_seconds
        return _Admitted(
            ask,
            checked,
            reservation,
            Mailbox(),
            Replies(name, served.model, ask, checked, estimate),
        )

    async def _start(self, admitted: _Admitted) -> None:
        try:
            request = await self._service.pooled(admitted.checked.build)
        except (InvalidArgument, TableError) as error:
            # The door checked everything else: what is left is a solver that cannot take these
            # steps on this schedule.
            raise invalid("solver", str(error)) from error
        admitted.reservation.run(request, admitted.mailbox, progress_every=admitted.progress_every)

    async def _respond(
        self, request: Request, record: _Record, admitted: _Admitted, send: Send
    ) -> None:
        end = await unless_gone(request.receive, admitted.mailbox.end())
        finished = _finished(end, admitted, record)
        url = file_urls(request.scope, self._service.settings.public_url)
        body = await self._pooled(admitted.replies.response, finished, self._service.images, url)
        response = Response(body, media_type="application/json")
        await response(request.scope, request.receive, self._patiently(send))

    async def _stream(
        self, request: Request, record: _Record, admitted: _Admitted, send: Send
    ) -> None:
        """Send events until the images are done, or an event that says why they are not."""
        write = self._patiently(send)
        await write(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [
                    (b"content-type", b"text/event-stream; charset=utf-8"),
                    (b"cache-control", b"no-store"),
                    (b"x-accel-buffering", b"no"),
                ],
            }
        )
        last = b""
        try:
            await unless_gone(request.receive, self._events(record, admitted, write))
        except ApiError as error:
            if error.status == CLIENT_GONE:
                raise
            record.outcome, record.code = error.outcome, error.code
            last = error_event(error)
        await write({"type": "http.response.body", "body": last, "more_body": False})

    async def _events(self, record: _Record, admitted: _Admitted, write: Send) -> None:
        replies, sent = admitted.replies, Counter[int]()
        end: Finished | Failed | None = None
        while end is None:
            await admitted.mailbox.wait(_HEARTBEAT_SECONDS)
            progress, end = admitted.mailbox.take()
            events = [] if progress or end else [b": waiting\n\n"]
            if progress:
                events += await self._pooled(replies.partials, progress, sent)
            if end is not None:
                events += await self._pooled(replies.completed, _finished(end, admitted, record))
            for event in events:
                await write({"type": "http.response.body", "body": event, "more_body": True})

    async def _pooled(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._service.pooled(functools.partial(function, *arguments))

    def _patiently(self, send: Send) -> Send:
        """Return `send` with an end to its patience with a client that does not read."""
        seconds = self._service.settings.limits.write_seconds

        async def write(message: Message) -> None:
            try:
                await asyncio.wait_for(send(message), seconds)
            except asyncio.TimeoutError as error:
                message_text = f"the client read nothing for {seconds:g} s"
                raise ApiError(CLIENT_GONE, message_text, code="slow_reader") from error

        return write

    @contextlib.contextmanager
    def _account(self, request: Request) -> Iterator[_Record]:
        """Count and log a request when it has ended."""
        service, begin = self._service, time.monotonic()
        record = _Record(request.scope.get("state", {}).get("request_id", ""))
        service.in_progress += 1
        service.metrics.in_progress.inc()
        try:
            yield record
        except asyncio.CancelledError:
            record.status, record.outcome = CLIENT_GONE, "cancelled"
            raise
        except BaseException as error:
            record.status, record.outcome, record.code = 500, "failed", "server_error"
            _log_failure(record, error)
            raise
        finally:
            seconds = time.monotonic() - begin
            service.in_progress -= 1
            service.metrics.in_progress.dec()
            service.metrics.requests.labels(record.model, record.outcome).inc()
            if record.outcome == "ok":
                service.metrics.seconds.labels(record.model).observe(seconds)
                service.metrics.queue_seconds.labels(record.model).observe(record.queue_seconds)
                service.metrics.images.labels(record.model, record.format).inc(record.images)
            _log.info("images", extra={"fields": {**vars(record), "seconds": round(seconds, 6)}})


def _finished(end: Finished | Failed, admitted: _Admitted, record: _Record) -> Finished:
    """Return a good end, or raise the other as an `ApiError`."""
    if isinstance(end, Finished):
        record.queue_seconds, record.run_seconds = end.queue_seconds, end.run_seconds
        return end
    if not isinstance(end.error, FastdiffError):
        _log_failure(record, end.error)
    raise failure(end.error, has_deadline=admitted.checked.demand.deadline is not None)


def _log_failure(record: _Record, error: BaseException) -> None:
    fields = {"request_id": record.request_id, "model": record.model}
    _log.error("a request failed", exc_info=error, extra={"fields": fields})


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Return what `work` returns; cancel it if the client leaves.

    Raises
    ------
    ApiError
        The client left first.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise client_gone()
    finally:
        gone.cancel()
        while not task.done():  # wait_for swallows a cancellation now and then, up to Python 3.11
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
