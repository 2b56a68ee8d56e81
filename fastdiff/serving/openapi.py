"""The OpenAPI description of the server, made from its endpoints and what checks their requests."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

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


_ERROR_CONTENT = {"application/json": {"schema": {"$ref": _REFERENCE + "Error"}}}
GENERATE_IMAGES = {
    "operationId": "create_image",
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": _REFERENCE + "ImageRequest"}}},
    },
    "responses": {
        "200": {
            "description": "The images, or events if `stream` is true.",
            "content": {
                "application/json": {"schema": {"$ref": _REFERENCE + "ImagesResponse"}},
                "text/event-stream": {"schema": {"type": "string"}},
            },
        },
        **{
            status: {"description": text, "content": _ERROR_CONTENT}
            for status, text in _ERRORS.items()
        },
    },
}
"""What there is to say of ``POST /v1/images/generations`` besides its summary."""

_PARAMETER = re.compile(r"{(\w+)(:\w+)?}")  # of a route's path, with or without its convertor


@dataclass(frozen=True, eq=False)
class Endpoint:
    """A path of the API: who answers it, and what its description says.

    Attributes
    ----------
    method : {"GET", "POST"}
    path : str
        As Starlette's routes have it, with parameters such as ``{name}`` or ``{name:path}``.
    handler : callable
        A function of a request that returns its response, or an ASGI application.
    summary : str
        One sentence.
    details : mapping
        The fields of its OpenAPI operation besides those that follow from summary and path.
    """

    method: Literal["GET", "POST"]
    path: str
    handler: Callable[..., Any]
    summary: str
    details: Mapping[str, Any] = field(default_factory=dict)

    def describe(self) -> tuple[str, dict[str, Any]]:
        """Return its path and its operation as OpenAPI writes them."""
        operation: dict[str, Any] = {
            "summary": self.summary,
            "responses": {"default": {"description": "See docs/serving.md."}},
        }
        if names := [name for name, _ in _PARAMETER.findall(self.path)]:
            operation["parameters"] = [
                {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
                for name in names
            ]
        return _PARAMETER.sub(r"{\1}", self.path), {**operation, **self.details}


@functools.cache
def describe_api(endpoints: Sequence[Endpoint]) -> dict[str, Any]:
    """Return the description as OpenAPI 3.1; it is shared, so leave it as it is."""
    from fastdiff import __version__

    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path, operation = endpoint.describe()
        paths.setdefault(path, {})[endpoint.method.lower()] = operation
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
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }
