"""The endpoints of a server: one table, from which come its routes and its OpenAPI description.

A new endpoint is a function of a request, a line in `ENDPOINTS`, and a row in docs/serving.md.
"""

from __future__ import annotations

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from fastdiff.serving.answers import FILES, GENERATIONS
from fastdiff.serving.faults import ApiError
from fastdiff.serving.generations import GenerationsEndpoint
from fastdiff.serving.openapi import GENERATE_IMAGES, Endpoint
from fastdiff.serving.service import Service

_CREATED = 0  # OpenAI's type requires the time at which a model was made, which is not known


async def image_file(request: Request) -> Response:
    """Return an image that was asked for by URL."""
    file = _service(request).images.get(request.path_params["name"])
    if file is None:
        raise ApiError(404, "no such image; they are kept for a while", code="not_found")
    headers = {"cache-control": "private, no-store", "content-security-policy": "sandbox"}
    return Response(file.data, media_type=f"image/{file.format}", headers=headers)


async def models(request: Request) -> Response:
    """List the models as OpenAI does."""
    return JSONResponse({"object": "list", "data": [*map(_model, _service(request).names)]})


async def model(request: Request) -> Response:
    """Return one model as OpenAI does."""
    name = request.path_params["name"]
    if name not in _service(request).names:
        raise ApiError(404, "no model of that name", code="model_not_found", param="model")
    return JSONResponse(_model(name))


async def status(request: Request) -> Response:
    """Return what every model takes and does."""
    service = _service(request)
    return JSONResponse({"state": service.state, "models": service.describe()})


async def health(request: Request) -> Response:
    """Say that the process is alive and its loop turns."""
    return JSONResponse({"status": "alive"})


async def ready(request: Request) -> Response:
    """Say whether requests for images are taken."""
    state = _service(request).state
    body = {"status": state, "models": _service(request).states()}
    return JSONResponse(body, 200 if state == "ready" else 503)


async def metrics(request: Request) -> Response:
    """Return the metrics."""
    return Response(_service(request).metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": "fastdiff"}


ENDPOINTS = (
    Endpoint("POST", GENERATIONS, GenerationsEndpoint, "Make images.", GENERATE_IMAGES),
    Endpoint("GET", FILES + "{name}", image_file, "An image that was asked for by URL."),
    Endpoint("GET", "/v1/models", models, "The models, as OpenAI lists them."),
    Endpoint("GET", "/v1/models/{name:path}", model, "One model."),
    Endpoint("GET", "/v1/status", status, "What every model takes, and what it does now."),
    Endpoint("GET", "/healthz", health, "The process is alive."),
    Endpoint("GET", "/readyz", ready, "200 if requests are taken, 503 if not."),
    Endpoint("GET", "/metrics", metrics, "Metrics for Prometheus."),
)
