"""Replicas and router as deployments of Ray Serve."""

from __future__ import annotations

import asyncio
import functools
import importlib
import os
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import fields
from typing import Any

from starlette.applications import Starlette
from starlette.types import Message

from fastdiff.errors import InvalidArgument, Unavailable, UnknownName
from fastdiff.serving.admission import Queueing
from fastdiff.serving.app import create_app
from fastdiff.serving.faults import ApiError
from fastdiff.serving.limits import Limits
from fastdiff.serving.loading import ModelOptions, Source, load_models
from fastdiff.serving.ray.fleet import Fleet
from fastdiff.serving.ray.relay import ReplicaLost, answer
from fastdiff.serving.ray.router import create_router
from fastdiff.serving.service import Service, Settings
from fastdiff.serving.worker import ModelWorker

_REPORT_SECONDS = 2.0  # A replica that does not answer within this time is left out of the reports.
# More than a replica has places for, so that its own queue refuses, which says when to come again,
# and no request waits in Ray's, which does not.
_AT_ONCE = 4096
_REPLICA = "Replica"

Load = Callable[[Service], None]


class Replica:
    """A whole server without a socket, in a process of its own; it is there when it is warm.

    Parameters
    ----------
    names : sequence of str
    load : callable
    limits : Limits
        As for `application`.
    """

    def __init__(self, names: Sequence[str], load: Load, limits: Limits) -> None:
        serve = _require_serve()
        self._name = serve.get_replica_context().replica_id.unique_id
        # No keys: the router checks them, and nobody else can reach a replica.
        self._service = Service(names, Settings(limits))
        load(self._service)
        self._app = create_app(self._service)

    async def answer(self, body: bytes, request_id: str) -> AsyncGenerator[Message, None]:
        """Answer a request for images; yields ASGI messages."""
        async with aclosing(answer(self._app, body, request_id)) as messages:
            async for message in messages:
                yield message

    async def report(self) -> dict[str, Any]:
        """Return what ``/readyz``, ``/v1/status`` and ``/metrics`` show."""
        return {
            "replica": self._name,
            "state": self._service.state,
            "models": self._service.describe(),
            "metrics": self._service.metrics.render().decode(),
        }

    async def check_health(self) -> None:
        """Raise if the replica must be replaced, as after an engine that keeps crashing."""
        if self._service.state != "ready":
            raise Unavailable(f"the replica is not ready: {self._service.states()}")


class _RayReplicas:
    """The replicas through Ray's handle of them.

    Parameters
    ----------
    handle : DeploymentHandle
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._answer = handle.options(method_name="answer", stream=True)
        errors = importlib.import_module("ray.exceptions")
        self._lost = (errors.RayActorError, errors.NodeDiedError, errors.WorkerCrashedError)
        serving = importlib.import_module("ray.serve.exceptions")
        self._unavailable = serving.DeploymentUnavailableError

    async def answer(self, body: bytes, request_id: str) -> AsyncGenerator[Message, None]:
        """Have one of them answer."""
        messages = self._answer.remote(body, request_id)
        try:
            async for message in messages:
                yield message
        except self._lost as error:
            raise ReplicaLost(str(error)) from error
        except self._unavailable as error:
            raise ApiError(
                503, "no replica runs", code="model_unavailable", retry_after=2
            ) from error
        finally:
            messages.cancel()  # For a client that has left; it does nothing after the end.

    async def reports(self) -> list[dict[str, Any]]:
        """Return what every replica that answers in time says of itself."""
        asked = self._handle.broadcast("report")
        try:
            reports = await asyncio.wait_for(
                asked.results_async(return_exceptions=True), _REPORT_SECONDS
            )
        except (self._unavailable, asyncio.TimeoutError):
            return []
        return [report for report in reports if isinstance(report, dict)]


def application(
    names: Sequence[str], load: Load, fleet: Fleet | None = None, settings: Settings | None = None
) -> Any:
    """Return the Ray Serve application: a router, and replicas of a server behind it.

    Parameters
    ----------
    names : sequence of str
        What clients call the models.
    load : callable
        Adds the models to a replica's service, as `fastdiff.serving.loading.load_models` does.
    fleet : Fleet, optional
        One replica unless given.
    settings : Settings, optional
        Keys, limits and origins.

    Raises
    ------
    Unavailable
        Ray Serve is not installed.
    """
    serve = _require_serve()
    fleet, settings = fleet or Fleet(), settings or Settings()

    def build_router() -> Starlette:
        app_name = serve.get_replica_context().app_name
        replicas = _RayReplicas(serve.get_deployment_handle(_REPLICA, app_name=app_name))
        return create_router(Service(names, settings), replicas)

    replicas = serve.deployment(
        Replica, name=_REPLICA, max_ongoing_requests=_AT_ONCE, **fleet.options
    )
    router = serve.deployment(
        serve.ingress(build_router)(),
        name="Router",
        max_ongoing_requests=_AT_ONCE,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=fleet.drain_seconds,
    )
    return router.bind(replicas.bind(tuple(names), load, settings.limits))


def deploy(
    models: Sequence[str],
    *,
    fleet: Fleet | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    choices: ModelOptions | None = None,
    queueing: Queueing | None = None,
    settings: Settings | None = None,
) -> str:
    """Serve models by several replicas behind one address, and return when they are warm.

    Starts a Ray cluster on this machine unless the program has joined one (``ray.init``). Serving
    goes on until ``ray.serve.shutdown()``, or until the cluster ends.

    Parameters
    ----------
    models : sequence of str
        As for ``fastdiff serve``: names, folders or .fastdiff files, each as ``NAME=MODEL`` if it
        is to be called so. They must be there on every machine of the cluster.
    fleet : Fleet, optional
        One replica unless given.
    host, port : str, int
        Where Ray's proxies listen; what a cluster that serves already has said stays.
    choices : ModelOptions, optional
        About compiling.
    queueing : Queueing, optional
        Of each replica.
    settings : Settings, optional
        Keys, limits and origins.

    Returns
    -------
    str
        The URL.

    Raises
    ------
    Unavailable
        Ray Serve is not installed.

    Examples
    --------
    >>> url = deploy(["digits"], fleet=Fleet(replicas=2, max_replicas=4))
    """
    serve = _require_serve()
    names, load = _loader(models, choices or ModelOptions(), queueing or Queueing())
    serve.start(http_options={"host": host, "port": port})
    serve.run(application(names, load, fleet, settings), name="fastdiff", route_prefix="/")
    return f"http://{host}:{port}"


def build(arguments: Mapping[str, Any]) -> Any:
    """Return the application for ``serve run fastdiff.serving.ray:build models=digits replicas=2``.

    Keys are read from the variable ``FASTDIFF_API_KEY``, with spaces between, and the public URL
    from ``FASTDIFF_PUBLIC_URL``, as by ``fastdiff serve``.

    Parameters
    ----------
    arguments : mapping
        ``models``, separated by commas, and the attributes of `Fleet`; texts or numbers.

    Raises
    ------
    InvalidArgument
        An argument is unknown, or has a wrong value.
    """
    given = dict(arguments)
    models = str(given.pop("models", ""))
    kinds: dict[str, Callable[[Any], Any]] = {
        own.name: int if "int" in str(own.type) else float for own in fields(Fleet)
    }
    unknown = sorted(given.keys() - kinds.keys())
    if unknown:
        raise UnknownName("argument", unknown[0], ["models", *kinds])
    try:
        fleet = Fleet(**{name: kinds[name](value) for name, value in given.items()})
    except ValueError as error:
        raise InvalidArgument(f"{given}: {error}") from error
    settings = Settings(
        api_keys=tuple(os.environ.get("FASTDIFF_API_KEY", "").split()),
        public_url=os.environ.get("FASTDIFF_PUBLIC_URL", ""),
    )
    return application(
        *_loader(models.split(","), ModelOptions(), Queueing()), fleet=fleet, settings=settings
    )


def _loader(
    models: Sequence[str], choices: ModelOptions, queueing: Queueing
) -> tuple[list[str], Load]:
    """Return the names of models, and what loads them."""
    sources = [Source.parse(model) for model in models]
    make_worker = functools.partial(ModelWorker, queueing=queueing)
    load = functools.partial(load_models, sources=sources, choices=choices, make_worker=make_worker)
    return [source.name for source in sources], load


def _require_serve() -> Any:
    try:
        return importlib.import_module("ray.serve")
    except ImportError as error:
        raise Unavailable(
            "scaling out needs Ray Serve: pip install 'fastdiff-runtime[serve,ray]'"
        ) from error
