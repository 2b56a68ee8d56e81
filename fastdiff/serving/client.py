"""A Python client of a fastdiff server."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from types import TracebackType
from typing import TYPE_CHECKING, Any

from fastdiff.errors import FastdiffError, Unavailable
from fastdiff.serving.answers import (
    GENERATIONS,
    Frame,
    Generation,
    authorization,
    check_url,
    require_httpx,
    retry_after,
    to_error,
)

if TYPE_CHECKING:
    import httpx

_FIRST_WAIT_SECONDS = 0.25  # The wait doubles at each retry.
# Waits are longer by up to this share, at random, so that clients which were refused together do
# not come back together.
_JITTER = 0.25
_BUSY_STATUSES = (429, 503)
_HTTP_NAMES = {"steps": "num_inference_steps"}  # parameters that have another name over HTTP


class Client:
    """Asks a fastdiff server for images; use as a context manager, or call `close`.

    Parameters
    ----------
    base_url : str
        Where the server is, such as ``"http://127.0.0.1:8000"``.
    api_key : str, optional
        Sent as a bearer token.
    timeout_seconds : float
        How long the server may be silent, the time in its queue included.
    retries : int
        How often a request is sent again when the server is full, loads or cannot be reached;
        never earlier than its ``Retry-After`` asks, and not if that is after `timeout_seconds`.
    transport : httpx.BaseTransport, optional
        What carries the requests, instead of the network.

    Raises
    ------
    InvalidArgument
        The URL is none of a server.
    Unavailable
        httpx is not installed.

    Examples
    --------
    >>> with Client("http://127.0.0.1:8000") as client:
    ...     generation = client.generate("7", n=4, steps=20, seed=1)
    >>> generation.images[0].save("seven.png")
    """

    def __init__(
        self,
        base_url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_seconds: float = 600.0,
        retries: int = 3,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        module = require_httpx()
        self._http = module.Client(
            base_url=check_url(base_url),
            headers=authorization(api_key),
            timeout=module.Timeout(timeout_seconds, connect=10.0),
            transport=transport,
        )
        self._retries, self._timeout_seconds = retries, timeout_seconds

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def models(self) -> list[str]:
        """Return the names of the models that the server has."""
        return [model["id"] for model in self._read("GET", "/v1/models")["data"]]

    def status(self) -> list[dict[str, Any]]:
        """Return what each model takes and does now, as ``GET /v1/status`` says it."""
        models: list[dict[str, Any]] = self._read("GET", "/v1/status")["models"]
        return models

    def generate(
        self,
        prompt: str | None = None,
        *,
        model: str | None = None,
        n: int = 1,
        steps: int | None = None,
        solver: str | None = None,
        eta: float | None = None,
        guidance_scale: float | None = None,
        seed: int | Sequence[int] | None = None,
        negative_prompt: str | None = None,
        class_labels: int | Sequence[int] | None = None,
        size: tuple[int, int] | None = None,
        deadline_ms: int | None = None,
    ) -> Generation:
        """Generate images.

        Parameters
        ----------
        prompt : str, optional
            What to draw; a class-conditional model takes its label, such as ``"7"``.
        model : str, optional
            One of `models`; a server of a single model needs none.
        n : int
            Number of images.
        steps, solver, eta, guidance_scale, seed : optional
            As in `fastdiff.Sampler.sample`; what is left out is the server's choice.
        negative_prompt : str, optional
            What not to draw.
        class_labels : int or sequence of int, optional
            For all images or one each, instead of a prompt.
        size : tuple of int, optional
            (width, height) in pixels.
        deadline_ms : int, optional
            Refuse or give up what takes longer.

        Raises
        ------
        InvalidArgument
            The server refuses a parameter or the API key; the message says which.
        Overloaded
            It was full at every try.
        DeadlineImpossible
            It cannot be done by the deadline; `Cancelled` if that turned out on the way.
        Unavailable
            The server cannot be reached, loads or drains.
        SamplingError
            The request failed while it was being sampled.
        """
        body = _body(
            prompt=prompt,
            model=model,
            n=n,
            steps=steps,
            solver=solver,
            eta=eta,
            guidance_scale=guidance_scale,
            seed=seed,
            negative_prompt=negative_prompt,
            class_labels=class_labels,
            size=size,
            deadline_ms=deadline_ms,
        )
        return Generation.read(self._read("POST", GENERATIONS, body))

    def stream(
        self, prompt: str | None = None, *, partial_images: int = 3, **parameters: Any
    ) -> Iterator[Frame]:
        """Generate images, and yield them as they come out of the noise.

        Close the iterator to stop early: the server frees the rows at its next step.

        Parameters
        ----------
        prompt : str, optional
            As in `generate`.
        partial_images : int
            Estimates of each image before it is done.
        **parameters
            Those of `generate`; its errors are these too.
        """
        body = _body(prompt=prompt, **parameters)
        body |= {"stream": True, "partial_images": partial_images}
        with closing(self._send("POST", GENERATIONS, body)) as response, _raising_unavailable():
            for line in response.iter_lines():
                if line.startswith("data:"):
                    yield Frame.read(json.loads(line[5:]))

    def _read(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        with closing(self._send(method, path, body)) as response, _raising_unavailable():
            return json.loads(response.read())

    def _send(self, method: str, path: str, body: Mapping[str, Any] | None) -> httpx.Response:
        """Return a successful answer whose body is not read yet."""
        attempt = 0
        while True:
            response = self._send_once(method, path, body)
            if response is not None and response.is_success:
                return response
            busy = response is None or response.status_code in _BUSY_STATUSES
            asked = 0.0 if response is None else retry_after(response.headers)
            if attempt == self._retries or not busy or asked > self._timeout_seconds:
                raise self._refusal(response, body)
            wait = max(asked, _FIRST_WAIT_SECONDS * 2**attempt)
            time.sleep(wait * random.uniform(1, 1 + _JITTER))  # noqa: S311
            attempt += 1

    def _send_once(
        self, method: str, path: str, body: Mapping[str, Any] | None
    ) -> httpx.Response | None:
        """Return the answer, read already if it is an error; None if nobody listens."""
        request = self._http.build_request(method, path, json=body)
        with _raising_unavailable():
            try:
                response: httpx.Response = self._http.send(request, stream=True)
            except require_httpx().ConnectError:
                return None
            if not response.is_success:
                response.read()
            return response

    def _refusal(
        self, response: httpx.Response | None, body: Mapping[str, Any] | None
    ) -> FastdiffError:
        if response is None:
            return Unavailable(f"nobody answers at {self._http.base_url}; is the server running?")
        deadline = (body or {}).get("deadline_ms", 0) / 1000
        return to_error(response.status_code, response.headers, response.text, deadline)


@contextmanager
def _raising_unavailable() -> Iterator[None]:
    """Raise httpx's errors of transport as `Unavailable`."""
    try:
        yield
    except require_httpx().TransportError as error:
        raise Unavailable(f"the connection failed: {error or type(error).__name__}") from error


def _body(*, size: tuple[int, int] | None = None, **parameters: Any) -> dict[str, Any]:
    """Return a request as the HTTP API names it; the server checks it."""
    named = {_HTTP_NAMES.get(k, k): v for k, v in parameters.items() if v is not None}
    return named if size is None else {**named, "size": f"{size[0]}x{size[1]}"}
