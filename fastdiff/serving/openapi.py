"""The OpenAPI description of the server, made from the models that check the requests."""

from __future__ import annotations

import functools
from typing import Any

from fastdiff.serving.protocol import ImageRequest

_REFERENCE = "#/components/schemas/"
_ERRORS = {
    "400": "A parameter is wrong, unknown or not supported; `param` names it.",
    "401": "No valid key.",
    "404": "No such model.",
    "408": "The body did not arrive in time.",
    "413": "The body is too large.",
    "415": "The body is not declared as JSON.",
    "429": "The queue is full, or the deadline cannot be met; `Retry-After` says when to return.",
    "500": "The model's output was not finite, or the engine failed.",
    "503": "The model loads or the server stops.",
    "504": "The deadline passed.",
}
_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": "string"},
            },
        }
    },
}
_IMAGE_SCHEMA = {
    "type": "object",
    "required": ["seed", "image"],
    "properties": {
        "b64_json": {"type": "string"},
        "url": {"type": "string"},
        "seed": {"type": "integer", "description": "The noise is a function of seed and image."},
        "image": {"type": "integer", "description": "Number of the image under its seed."},
    },
}
_RESPONSE_SCHEMA = {
    "type": "object",
    "required": ["created", "data", "model", "backend", "steps", "queue_seconds", "run_seconds"],
    "properties": {
        "created": {"type": "integer"},
        "data": {"type": "array", "items": {"$ref": _REFERENCE + "Image"}},
        "size": {"type": "string"},
        "output_format": {"type": "string"},
        "background": {"type": "string"},
        "quality": {"type": "string"},
        "model": {"type": "string"},
        "backend": {"type": "string"},
        "steps": {"type": "integer"},
        "queue_seconds": {"type": "number", "description": "From admission to the first step."},
        "run_seconds": {"type": "number", "description": "From the first step to the last."},
        "estimate_seconds": {
            "type": "number",
            "description": "Both of these, as foretold at admission.",
        },
        "ignored": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Parameters of the request that changed nothing.",
        },
    },
}


@functools.cache
def describe_api() -> dict[str, Any]:
    """Return the description as OpenAPI 3.1; it is shared, so leave it as it is."""
    from fastdiff import __version__

    request = ImageRequest.model_json_schema(ref_template=_REFERENCE + "{model}")
    schemas = {
        "ImageRequest": request,
        "Image": _IMAGE_SCHEMA,
        "ImagesResponse": _RESPONSE_SCHEMA,
        "Error": _ERROR_SCHEMA,
    }
    return {
        "openapi": "3.1.0",
        "info": {"title": "fastdiff", "version": __version__},
        "paths": {
            "/v1/images/generations": {"post": _generations()},
            "/v1/images/files/{name}": {
                "get": _read("An image that was asked for by URL.", "name")
            },
            "/v1/models": {"get": _read("The models, as OpenAI lists them.")},
            "/v1/models/{name}": {"get": _read("One model.", "name")},
            "/v1/status": {"get": _read("What every model takes, and what it does now.")},
            "/healthz": {"get": _read("The process is alive.")},
            "/readyz": {"get": _read("200 if requests are taken, 503 if not.")},
            "/metrics": {"get": _read("Metrics for Prometheus.")},
        },
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _generations() -> dict[str, Any]:
    success = {
        "description": "The images, or events if `stream` is true.",
        "content": {
            "application/json": {"schema": {"$ref": _REFERENCE + "ImagesResponse"}},
            "text/event-stream": {"schema": {"type": "string"}},
        },
    }
    error = {"application/json": {"schema": {"$ref": _REFERENCE + "Error"}}}
    errors = {status: {"description": text, "content": error} for status, text in _ERRORS.items()}
    body = {"application/json": {"schema": {"$ref": _REFERENCE + "ImageRequest"}}}
    return {
        "summary": "Make images.",
        "operationId": "create_image",
        "requestBody": {"required": True, "content": body},
        "responses": {"200": success, **errors},
    }


def _read(summary: str, parameter: str | None = None) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {"default": {"description": "See docs/serving.md."}},
    }
    if parameter is not None:
        operation["parameters"] = [
            {"name": parameter, "in": "path", "required": True, "schema": {"type": "string"}}
        ]
    return operation
