"""The HTTP application: routes, page, and what every request passes on its way."""

from __future__ import annotations

import contextlib
import mimetypes
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fastdiff.serving.answers import FILES
from fastdiff.serving.faults import ApiError
from fastdiff.serving.generations import GenerationsEndpoint
from fastdiff.serving.middleware import ApiKeys, LingeringClose, RequestContext
from fastdiff.serving.openapi import describe_api
from fastdiff.serving.service import Service

_PAGE = Path(__file__).with_name("page")
_CREATED = 0  # /v1/models must tell when a model was made, and nobody knows


def create_app(service: Service) -> Starlette:
    """Return the ASGI application of a server.

    Parameters
    ----------
    service : Service
        Its models may still be loading: it answers 503 for them until they are added.
    """
    settings = service.settings
    middleware = [Middleware(LingeringClose), Middleware(RequestContext)]
    if settings.cors_origins:
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["Retry-After", "X-Request-Id"],
            )
        )
    if settings.api_keys:
        middleware.append(
            Middleware(
                ApiKeys, keys=settings.api_keys, guarded=["/v1/", "/metrics"], open_prefix=FILES
            )
        )
    handlers: dict[Any, Any] = {
        ApiError: _api_error,
        HTTPException: _http_error,
        Exception: _crash,
    }
    app = Starlette(
        routes=[*_Api(service).routes(), *_page_routes()],
        middleware=middleware,
        exception_handlers=handlers,
        lifespan=_lifespan,
    )
    app.state.service = service
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    yield
    app.state.service.close()


class _Api:
    """The endpoints that read the service."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def routes(self) -> list[BaseRoute]:
        """Return all routes but those of the page."""
        return [
            Route("/v1/images/generations", GenerationsEndpoint, methods=["POST"]),
            Route(FILES + "{name}", self.image_file, methods=["GET"]),
            Route("/v1/models", self.models, methods=["GET"]),
            Route("/v1/models/{name:path}", self.model, methods=["GET"]),
            Route("/v1/status", self.status, methods=["GET"]),
            Route("/healthz", self.health, methods=["GET"]),
            Route("/readyz", self.ready, methods=["GET"]),
            Route("/metrics", self.metrics, methods=["GET"]),
            Route("/openapi.json", self.openapi, methods=["GET"]),
        ]

    async def image_file(self, request: Request) -> Response:
        """Return an image that was asked for by URL."""
        file = self._service.images.get(request.path_params["name"])
        if file is None:
            raise ApiError(404, "no such image; they are kept for a while", code="not_found")
        headers = {"cache-control": "private, no-store", "content-security-policy": "sandbox"}
        return Response(file.data, media_type=f"image/{file.format}", headers=headers)

    async def models(self, request: Request) -> Response:
        """List the models as OpenAI does."""
        return JSONResponse({"object": "list", "data": [*map(_model, self._service.names)]})

    async def model(self, request: Request) -> Response:
        """Return one model as OpenAI does."""
        name = request.path_params["name"]
        if name not in self._service.names:
            raise ApiError(404, "no model of that name", code="model_not_found", param="model")
        return JSONResponse(_model(name))

    async def status(self, request: Request) -> Response:
        """Return what every model takes and does."""
        return JSONResponse({"state": self._service.state, "models": self._service.describe()})

    async def health(self, request: Request) -> Response:
        """Say that the process is alive and its loop turns."""
        return JSONResponse({"status": "alive"})

    async def ready(self, request: Request) -> Response:
        """Say whether requests for images are taken."""
        state = self._service.state
        body = {"status": state, "models": self._service.states()}
        return JSONResponse(body, 200 if state == "ready" else 503)

    async def metrics(self, request: Request) -> Response:
        """Return the metrics."""
        return Response(self._service.metrics.render(), media_type=CONTENT_TYPE_LATEST)

    async def openapi(self, request: Request) -> Response:
        """Describe the API."""
        return JSONResponse(describe_api())


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "fastdiff"}


def _page_routes() -> list[BaseRoute]:
    """Return a route for every file of the page, read once."""
    return [
        _file_route("/" if file.name == "index.html" else f"/{file.name}", file)
        for file in sorted(_PAGE.iterdir())
        if file.is_file()
    ]


def _file_route(path: str, file: Path) -> Route:
    data = file.read_bytes()
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    headers = {"cache-control": "no-cache"}

    async def send_file(request: Request) -> Response:
        return Response(data, media_type=kind, headers=headers)

    return Route(path, send_file, methods=["GET"])


async def _api_error(request: Request, error: Exception) -> Response:
    """Return a refusal in the shape of OpenAI's API."""
    if not isinstance(error, ApiError):
        raise error
    return JSONResponse(error.body, error.status, error.headers)


async def _http_error(request: Request, error: Exception) -> Response:
    """Return an unknown path or method in the shape of OpenAI's API."""
    if not isinstance(error, HTTPException):
        raise error
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    message = f"{request.method} {request.url.path}: {error.detail}"
    fault = ApiError(error.status_code, message, code=code)
    return JSONResponse(fault.body, fault.status, error.headers)


async def _crash(request: Request, error: Exception) -> Response:
    """Return a bug of the server's own; the log has its traceback under the request's id."""
    fault = ApiError(500, "the server failed; its log tells why", code="server_error")
    return JSONResponse(fault.body, fault.status)
