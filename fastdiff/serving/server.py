"""The process around the application: its socket, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import uvicorn

from fastdiff.errors import FastdiffError, Unavailable
from fastdiff.serving.app import create_app
from fastdiff.serving.service import Service

_POLL_SECONDS = 0.05
_LAST_WORDS_SECONDS = 2
_BACKLOG = 2048
_MAX_CONNECTIONS = 4096
_log = logging.getLogger("fastdiff.serving")


def listen(host: str, port: int, write_seconds: float) -> socket.socket:
    """Return a listening socket whose connections end when their peer stops reading.

    Parameters
    ----------
    host : str
        Address or name.
    port : int
        0 for a free one.
    write_seconds : float
        How long the peer of a connection may read nothing of what was sent to it. The kernel
        closes such a connection (``TCP_USER_TIMEOUT``, RFC 5482), with its buffers; systems
        without that option keep it until the peer goes.

    Raises
    ------
    Unavailable
        The address cannot be used.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError as error:
        raise Unavailable(f"cannot listen on {host} port {port}: {error}") from error
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Accepted connections inherit it from the listener.
        milliseconds = round(write_seconds * 1000)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
    return listener


def run_server(
    service: Service,
    load: Callable[[], None],
    listener: socket.socket,
    drain_seconds: float,
) -> int:
    """Serve until a signal comes.

    The first SIGTERM or SIGINT turns new requests away and lets running ones finish; the second
    ends the process at once.

    Parameters
    ----------
    service : Service
    load : callable
        Loads the models and adds them to the service, in a thread of its own; the server answers
        meanwhile. If it raises, the server ends.
    listener : socket
        From `listen`.
    drain_seconds : float
        How long running requests may go on after the signal.

    Returns
    -------
    int
        Exit code: 0 after a signal, 1 if the models could not be loaded.
    """
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # Any process of this machine could write them.
        limit_concurrency=_MAX_CONNECTIONS,
        timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
    )
    server = _Server(config, service, drain_seconds)
    failures: list[BaseException] = []

    def load_all() -> None:
        try:
            load()
        except BaseException as error:
            failures.append(error)
            # The messages of these say all that helps. Anything else is a bug, and needs its trace.
            trace = None if isinstance(error, (FastdiffError, OSError)) else error
            _log.critical("a model cannot be served: %s", error, exc_info=trace)
            server.should_exit = True

    loader = threading.Thread(target=load_all, name="fastdiff-load", daemon=True)
    loader.start()
    server.run(sockets=[listener])
    code = 1 if failures else 0
    if loader.is_alive():
        # It still compiles, in native threads that would crash if Python ended in order under them.
        os._exit(code)
    return code


class _Server(uvicorn.Server):
    """uvicorn, but the first signal drains."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service, self._drain_seconds = service, drain_seconds
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals in the loop, and do not raise them again at the end, as uvicorn does."""
        loop = asyncio.get_running_loop()
        numbers = (signal.SIGINT, signal.SIGTERM)
        for number in numbers:
            loop.add_signal_handler(number, self._signalled, number)
        try:
            yield
        finally:
            for number in numbers:
                loop.remove_signal_handler(number)

    def _signalled(self, number: int) -> None:
        if self._draining is not None:
            os._exit(128 + number)
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        """Let running requests finish, tell the others, and stop."""
        self._service.draining = True
        fields = {"requests": self._service.in_progress, "seconds": self._drain_seconds}
        _log.info("draining", extra={"fields": fields})
        if not await self._idle_within(self._drain_seconds):
            self._service.abandon()
            await self._idle_within(_LAST_WORDS_SECONDS)
        self.should_exit = True

    async def _idle_within(self, seconds: float) -> bool:
        """Wait until no request is in progress, or no longer than `seconds`."""
        end = time.monotonic() + seconds
        while self._service.in_progress and time.monotonic() < end:
            await asyncio.sleep(_POLL_SECONDS)
        return not self._service.in_progress
