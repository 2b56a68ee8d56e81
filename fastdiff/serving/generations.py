"""``POST /v1/images/generations``: one request from its first byte to its last.

docs/serving.md has its life as a table. Nothing that takes time happens before a place in the queue
is reserved, and the place is given back whatever happens after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Coroutine, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from fastdiff.errors import FastdiffError, InvalidArgument, TableError
from fastdiff.serving.addresses import file_urls
from fastdiff.serving.events import Failed, Finished
from fastdiff.serving.faults import CLIENT_GONE, ApiError, client_gone, failure, invalid
from fastdiff.serving.jobs import Worker
from fastdiff.serving.limits import read_request
from fastdiff.serving.mailbox import Mailbox
from fastdiff.serving.models import CheckedRequest
from fastdiff.serving.replies import Replies, error_event
from fastdiff.serving.service import Service

T = TypeVar("T")

_HEARTBEAT_SECONDS = 10.0
_STREAM_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]
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


class GenerationsEndpoint:
    """Answers one request for images, on the event loop.

    It is made anew for each request, as Starlette's ``HTTPEndpoint`` is. The application's
    ``state.service`` is the server's `Service`.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._service: Service = scope["app"].state.service
        self._http, self._send = Request(scope, receive), send
        self._record = _Record(scope.get("state", {}).get("request_id", ""))

    def __await__(self) -> Generator[Any, None, None]:
        return self._run().__await__()

    async def _run(self) -> None:
        record, http = self._record, self._http
        with self._accounted():
            try:
                await self._answer()
            except ApiError as error:
                record.status, record.outcome, record.code = error.status, error.outcome, error.code
                if error.status != CLIENT_GONE:
                    response = JSONResponse(error.body, error.status, error.headers)
                    await response(http.scope, http.receive, self._send)

    async def _answer(self) -> None:
        arrived, service, record = time.monotonic(), self._service, self._record
        ask = await read_request(self._http, service.settings.limits)
        record.stream, record.images, record.format = bool(ask.stream), ask.count, ask.format
        record.model, served = service.find(ask.model)
        checked = served.model.check(ask)
        service.settings.limits.check_pixels(ask.count, checked.width, checked.height)
        if ask.deadline_seconds is not None:
            checked.job.deadline = arrived + ask.deadline_seconds
        with service.place(served.worker, checked):
            record.steps = checked.steps
            mailbox, replies = Mailbox(), Replies(record.model, served.model, checked)
            answer = self._stream if ask.stream else self._respond
            try:
                await self._unless_gone(self._start(served.worker, checked, mailbox))
                await answer(mailbox, replies)
            finally:
                service.metrics.dropped_partials.labels(record.model).inc(mailbox.dropped)

    async def _start(self, worker: Worker, checked: CheckedRequest, mailbox: Mailbox) -> None:
        try:
            request = await self._service.pooled(checked.build)
        except (InvalidArgument, TableError) as error:
            # All parameters have been checked by themselves. What is left is a solver that cannot
            # take so many steps on this model's schedule.
            raise invalid("solver", str(error)) from error
        worker.run(checked.job, request, mailbox, progress_every=checked.progress_every)

    async def _respond(self, mailbox: Mailbox, replies: Replies) -> None:
        """Send the images when all of them are done."""
        service, scope = self._service, self._http.scope
        finished = self._finished(await self._unless_gone(mailbox.end()), replies.checked)
        url = file_urls(scope, service.settings.public_url)
        body = await service.pooled(replies.response, finished, service.images, url)
        response = Response(body, media_type="application/json")
        await response(scope, self._http.receive, self._write)

    async def _stream(self, mailbox: Mailbox, replies: Replies) -> None:
        """Send events until the images are done, or an event that says why they are not."""
        await self._write(
            {"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS}
        )
        last = b""
        try:
            await self._unless_gone(self._send_events(mailbox, replies))
        except ApiError as error:
            if error.status == CLIENT_GONE:
                raise
            self._record.outcome, self._record.code = error.outcome, error.code
            last = error_event(error)
        await self._write({"type": "http.response.body", "body": last, "more_body": False})

    async def _send_events(self, mailbox: Mailbox, replies: Replies) -> None:
        pooled, sent = self._service.pooled, Counter[int]()
        end: Finished | Failed | None = None
        while end is None:
            await mailbox.wait(_HEARTBEAT_SECONDS)
            progress, end = mailbox.take()
            events = [] if progress or end else [b": waiting\n\n"]
            if progress:
                events += await pooled(replies.partials, progress, sent)
            if end is not None:
                finished = self._finished(end, replies.checked)
                events += await pooled(replies.completed, finished)
            for event in events:
                await self._write({"type": "http.response.body", "body": event, "more_body": True})

    def _finished(self, end: Finished | Failed, checked: CheckedRequest) -> Finished:
        """Return a good end, or raise the other as an `ApiError`."""
        if isinstance(end, Finished):
            self._record.queue_seconds = end.queue_seconds
            self._record.run_seconds = end.run_seconds
            return end
        if not isinstance(end.error, FastdiffError):
            self._log_failure(end.error)
        raise failure(end.error, has_deadline=checked.ask.deadline_ms is not None)

    async def _unless_gone(self, work: Coroutine[Any, Any, T]) -> T:
        return await unless_gone(self._http.receive, work)

    async def _write(self, message: Message) -> None:
        """Send a message; give the client up if it does not read."""
        seconds = self._service.settings.limits.write_seconds
        try:
            await asyncio.wait_for(self._send(message), seconds)
        except asyncio.TimeoutError as error:
            message_text = f"the client read nothing for {seconds:g} s"
            raise ApiError(CLIENT_GONE, message_text, code="slow_reader") from error

    @contextlib.contextmanager
    def _accounted(self) -> Iterator[None]:
        """Count and log the request when it has ended."""
        service, record, begin = self._service, self._record, time.monotonic()
        service.in_progress += 1
        service.metrics.in_progress.inc()
        try:
            yield
        except asyncio.CancelledError:
            record.status, record.outcome = CLIENT_GONE, "cancelled"
            raise
        except BaseException as error:
            record.status, record.outcome, record.code = 500, "failed", "server_error"
            self._log_failure(error)
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

    def _log_failure(self, error: BaseException) -> None:
        fields = {"request_id": self._record.request_id, "model": self._record.model}
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
        while not task.done():
            # Up to Python 3.11, `asyncio.wait_for` may swallow a cancellation: repeat it.
            task.cancel()
            await asyncio.wait({task}, timeout=0.1)
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
