"""The HTTP application: endpoints, page, and what every request passes on its way."""

from __future__ import annotations

import contextlib
import mimetypes
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from fastdiff.serving.answers import FILES
from fastdiff.serving.endpoints import ENDPOINTS
from fastdiff.serving.faults import ApiError
from fastdiff.serving.middleware import ApiKeys, LingeringClose, RequestContext
from fastdiff.serving.openapi import describe_api
from fastdiff.serving.service import Service

_PAGE = Path(__file__).with_name("page")


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
        routes=[*_api_routes(), *_page_routes()],
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


def _api_routes() -> list[BaseRoute]:
    """Return a route for every endpoint, and one for their description."""

    async def openapi(request: Request) -> Response:
        return JSONResponse(describe_api(ENDPOINTS))

    routes = [Route(each.path, each.handler, methods=[each.method]) for each in ENDPOINTS]
    return [*routes, Route("/openapi.json", openapi, methods=["GET"])]


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
