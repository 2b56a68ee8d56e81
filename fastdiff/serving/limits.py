"""How much a client may ask for, and the reading of a request that keeps to it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, fields

from starlette.requests import ClientDisconnect, Request

from fastdiff.errors import InvalidArgument
from fastdiff.serving.faults import ApiError, client_gone, invalid
from fastdiff.serving.protocol import ImageRequest, parse_request


@dataclass(frozen=True)
class Limits:
    """The largest request that is served.

    Attributes
    ----------
    max_n : int
        Images of a request.
    max_steps : int
        Solver steps.
    max_pixels : int
        Pixels of all images of a request.
    max_prompt_chars : int
        Characters of a prompt.
    max_body_bytes : int
        Bytes of a request's body.
    body_seconds : float
        Time for a body to arrive.
    write_seconds : float
        Time for a client to take what is sent to it.
    """

    max_n: int = 16
    max_steps: int = 1000
    max_pixels: int = 1 << 22
    max_prompt_chars: int = 4000
    max_body_bytes: int = 1 << 16
    body_seconds: float = 20.0
    write_seconds: float = 20.0

    def __post_init__(self) -> None:
        for limit in fields(self):
            if getattr(self, limit.name) <= 0:
                raise InvalidArgument(
                    f"{limit.name}: expected more than 0, got {getattr(self, limit.name)}"
                )

    def check(self, request: ImageRequest) -> None:
        """Refuse a request that asks for too much by itself, whatever its model.

        Raises
        ------
        ApiError
            400, with the parameter's name.
        """
        _at_most("n", request.count, self.max_n)
        _at_most("num_inference_steps", request.num_inference_steps or 1, self.max_steps)
        for name in ("prompt", "negative_prompt"):
            length = len(getattr(request, name) or "")
            if length > self.max_prompt_chars:
                raise invalid(
                    name,
                    f"{name}: expected at most {self.max_prompt_chars} characters, got {length}",
                )

    def check_pixels(self, n: int, width: int, height: int) -> None:
        """Refuse images that are too large together, once the model has said their size.

        Raises
        ------
        ApiError
            400.
        """
        if n * width * height > self.max_pixels:
            raise invalid(
                "size",
                f"size: {n} images of {width}x{height} are {n * width * height} pixels; at most "
                f"{self.max_pixels} are served in one request",
            )


def _at_most(param: str, value: int, limit: int) -> None:
    if value > limit:
        raise invalid(param, f"{param}: expected at most {limit}, got {value}")


async def read_request(request: Request, limits: Limits) -> ImageRequest:
    """Read a request for images, check all that is known without its model, and give it seeds.

    Raises
    ------
    ApiError
        400 with the name of a wrong parameter, 413 for a body that is too large, 408 for one that
        does not come, 415 for one that is not declared as JSON: browsers send no other kind across
        origins without asking.
    """
    ask = parse_request(await _read_body(request, limits))
    limits.check(ask)
    return ask.seeded()


async def _read_body(request: Request, limits: Limits) -> bytes:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise ApiError(
            415, "expected Content-Type: application/json", code="unsupported_content_type"
        )
    try:
        return await asyncio.wait_for(_read(request, limits.max_body_bytes), limits.body_seconds)
    except asyncio.TimeoutError as error:
        raise ApiError(
            408,
            f"the body did not arrive within {limits.body_seconds:g} s",
            code="body_timeout",
        ) from error
    except ClientDisconnect as error:
        raise client_gone() from error


async def _read(request: Request, limit: int) -> bytes:
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > limit:
            message = f"the body has more than {limit} bytes, the most that is read"
            raise ApiError(413, message, code="body_too_large")
    return bytes(body)
