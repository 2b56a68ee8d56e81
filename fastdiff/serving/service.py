"""What a server holds: its models, its limits, its thread pool, its images and its counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fastdiff.errors import DeadlineImpossible, InvalidArgument, Overloaded, Unavailable
from fastdiff.serving.answers import check_url
from fastdiff.serving.faults import ApiError, invalid, refusal
from fastdiff.serving.images import ImageStore
from fastdiff.serving.jobs import Job, Worker, WorkerStatus
from fastdiff.serving.limits import Limits
from fastdiff.serving.metrics import Metrics
from fastdiff.serving.models import CheckedRequest, Served

T = TypeVar("T")


@dataclass(frozen=True)
class Settings:
    """How a server behaves towards its clients.

    Attributes
    ----------
    limits : Limits
        The largest request.
    api_keys : tuple of str
        Any of them opens the API; none leaves it open.
    cors_origins : tuple of str
        Other sites whose pages may call the API.
    public_url : str
        Where clients reach the server, which the URLs of images begin with; empty for the address
        that took the request.
    pool_threads : int
        Threads that build solver tables and encode pictures.
    store_bytes, store_seconds : int, float
        Size and age of the images that are served by URL.
    """

    limits: Limits = field(default_factory=Limits)
    api_keys: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    public_url: str = ""
    pool_threads: int = 2
    store_bytes: int = 1 << 28
    store_seconds: float = 3600.0

    def __post_init__(self) -> None:
        if any(not key or not key.isascii() or key != key.strip() for key in self.api_keys):
            raise InvalidArgument("api_keys: expected ASCII text without spaces around it")
        if self.public_url:
            check_url(self.public_url)


class Service:
    """The state of a server; it belongs to the event loop, except for `add` and what is pooled.

    Parameters
    ----------
    names : sequence of str
        The models that will be served, in the order in which clients see them.
    settings : Settings

    Attributes
    ----------
    draining : bool
        Whether new requests are turned away because the server is about to end.
    in_progress : int
        Requests for images that have not been answered to their end.
    """

    def __init__(self, names: Sequence[str], settings: Settings | None = None) -> None:
        if not names or len(set(names)) != len(names):
            raise InvalidArgument(f"models: expected names that differ, got {list(names)}")
        self.settings = settings or Settings()
        self.names = tuple(names)
        self.metrics = Metrics()
        self.metrics.watch(self.statuses)
        self.images = ImageStore(self.settings.store_bytes, self.settings.store_seconds)
        self.draining = False
        self.in_progress = 0
        self._served: dict[str, Served] = {}
        self._held: dict[Job, Worker] = {}  # The worker of each job that holds a place.
        self._pool = ThreadPoolExecutor(self.settings.pool_threads, "fastdiff-http")

    def add(self, name: str, served: Served) -> None:
        """Open a model to requests."""
        if name not in self.names:
            raise InvalidArgument(f"expected one of {', '.join(self.names)}, got {name!r}")
        self._served[name] = served

    def find(self, name: str | None) -> tuple[str, Served]:
        """Return the model that a request names, with its name.

        Raises
        ------
        ApiError
            404 if there is none of that name, 503 while it loads or the server drains, 400 if
            several are served and the request names none.
        """
        if name is None and len(self.names) > 1:
            raise invalid("model", f"model: expected one of {', '.join(self.names)}")
        name = name or self.names[0]
        if name not in self.names:
            known = ", ".join(self.names)
            raise ApiError(
                404, f"no model of that name; known: {known}", code="model_not_found", param="model"
            )
        if self.draining:
            raise ApiError(503, "the server is stopping", code="server_stopping", retry_after=5)
        if name not in self._served:
            raise ApiError(503, f"{name} is still loading", code="model_loading", retry_after=2)
        return name, self._served[name]

    def statuses(self) -> dict[str, WorkerStatus]:
        """Return what the workers of the loaded models do now."""
        return {name: served.worker.status() for name, served in dict(self._served).items()}

    def states(self) -> dict[str, str]:
        """Return each model's state: loading, ready, draining or stopped."""
        loaded = {name: status.state for name, status in self.statuses().items()}
        return {name: loaded.get(name, "loading") for name in self.names}

    @property
    def state(self) -> str:
        """The server's state: ready if every model is."""
        if self.draining:
            return "draining"
        return next((s for s in self.states().values() if s != "ready"), "ready")

    def describe(self) -> list[dict[str, Any]]:
        """Return what ``/v1/status`` shows of each model."""
        states, statuses, limits = self.states(), self.statuses(), self.settings.limits
        shown = []
        for name in self.names:
            entry: dict[str, Any] = {"name": name, "state": states[name]}
            if name in statuses:
                served, status = self._served[name], statuses[name]
                parameters = dict(served.model.parameters)
                parameters["max_steps"] = min(parameters["max_steps"], limits.max_steps)
                entry |= {
                    "backend": served.model.backend,
                    "waiting_rows": status.waiting_rows,
                    "running_rows": status.running_rows,
                    "jobs": status.jobs,
                    "steps_per_second": status.steps_per_second,
                    "row_steps_per_second": status.row_steps_per_second,
                    "parameters": {**parameters, "max_n": limits.max_n},
                }
            shown.append(entry)
        return shown

    @contextmanager
    def place(self, worker: Worker, checked: CheckedRequest) -> Iterator[None]:
        """Hold a place for a job; it is given back however the block ends.

        Raises
        ------
        ApiError
            429 if the queue is full or the job would miss its deadline, 503 if the worker takes
            no jobs.
        """
        job = checked.job
        try:
            worker.reserve(job)
        except (Overloaded, DeadlineImpossible, Unavailable) as error:
            raise refusal(error, checked.ask.deadline_seconds) from error
        self._held[job] = worker
        try:
            yield
        finally:
            del self._held[job]
            worker.cancel(job)

    def abandon(self) -> None:
        """Cancel every job that still runs; their clients are told."""
        for job, worker in tuple(self._held.items()):
            worker.cancel(job)

    async def pooled(self, function: Callable[..., T], *arguments: Any) -> T:
        """Return ``function(*arguments)``, run in the thread pool."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, function, *arguments)

    def close(self) -> None:
        """Stop the thread pool."""
        self._pool.shutdown(wait=False, cancel_futures=True)
