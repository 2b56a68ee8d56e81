"""Load on a server from outside: arrivals that wait for nobody, and what became of them.

The load is open-loop. Arrivals are drawn before the first is sent, a slow server slows none of them
down, and a request's latency counts from the moment it was due. A closed loop, in which each client
waits for its answer, would ask less of a server just when that is slow, and see little of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from fastdiff.errors import InvalidArgument
from fastdiff.serving.answers import GENERATIONS, authorization, check_url, require_httpx

if TYPE_CHECKING:
    import httpx

Status = Literal["answered", "refused", "failed"]


@dataclass(frozen=True)
class Kind:
    """One kind of request in a mix.

    Attributes
    ----------
    steps : int
        Solver steps.
    weight : float
        Its share of the arrivals, relative to the others'.
    size : str or None
        WIDTHxHEIGHT in pixels; None for the model's own.
    """

    steps: int
    weight: float = 1.0
    size: str | None = None

    @property
    def name(self) -> str:
        """What `parse_mix` reads, without the weight."""
        return f"{self.steps}" + (f"@{self.size}" if self.size else "")


def parse_mix(text: str) -> tuple[Kind, ...]:
    """Read ``STEPS[@WIDTHxHEIGHT][:WEIGHT]`` with commas between, such as ``10:0.8,100:0.2``.

    Raises
    ------
    InvalidArgument
        It is something else.
    """
    kinds = []
    for part in text.split(","):
        what, _, weight = part.partition(":")
        steps, _, size = what.partition("@")
        try:
            kind = Kind(int(steps), float(weight or 1), size.strip() or None)
        except ValueError:
            kind = Kind(0)
        if kind.steps < 1 or not 0 < kind.weight < float("inf"):
            raise InvalidArgument(
                f"mix: expected STEPS[@WIDTHxHEIGHT][:WEIGHT] with commas between, such as "
                f"10:0.8,100@64x64:0.2, got {part!r}"
            )
        kinds.append(kind)
    return tuple(kinds)


@dataclass(frozen=True)
class Load:
    """What a server is asked for.

    Attributes
    ----------
    rate : float
        Arrivals per second, on average.
    seconds : float
        For how long requests arrive.
    mix : sequence of Kind
        What they ask for.
    arrivals : {"poisson", "fixed"}
        Exponential gaps, as independent users make them, or equal ones.
    seed : int
        Of the arrivals, their kinds and their images.
    n : int
        Images of each request.
    parameters : mapping
        What else each request says: ``{"prompt": "7", "model": "digits"}``.
    """

    rate: float
    seconds: float
    mix: Sequence[Kind] = (Kind(50),)
    arrivals: str = "poisson"
    seed: int = 0
    n: int = 1
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("rate", "seconds", "n"):
            if not 0 < getattr(self, name) < float("inf"):
                raise InvalidArgument(f"{name}: expected more than 0, got {getattr(self, name)}")
        if self.arrivals not in ("poisson", "fixed"):
            raise InvalidArgument(f"arrivals: expected poisson or fixed, got {self.arrivals!r}")

    def schedule(self) -> list[tuple[float, Kind]]:
        """Return when each request is due, in seconds from the start, and its kind."""
        draw = np.random.default_rng(self.seed)
        count = round(self.rate * self.seconds)
        if self.arrivals == "fixed":
            due = np.arange(count) / self.rate
        else:
            due = np.sort(draw.uniform(0, self.seconds, draw.poisson(self.rate * self.seconds)))
        weights = np.array([kind.weight for kind in self.mix])
        kinds = draw.choice(len(self.mix), len(due), p=weights / weights.sum())
        return [(float(t), self.mix[k]) for t, k in zip(due, kinds, strict=True)]


@dataclass(frozen=True)
class Outcome:
    """What became of one request.

    Attributes
    ----------
    kind : str
        `Kind.name`.
    due_seconds : float
        When it was due, from the start of the load.
    late_seconds : float
        How much later it was sent: the load generator's own fault.
    seconds : float
        From when it was due to the last byte of the answer.
    status : {"answered", "refused", "failed"}
        Refused is 429; failed is everything but that and a success.
    queue_seconds, estimate_seconds : float or None
        The wait for the first step, and the time until the answer that the server foretold.
    retry_after_seconds : float or None
        What a refusal said.
    error : str or None
        Why it was not answered.
    """

    kind: str
    due_seconds: float
    late_seconds: float
    seconds: float
    status: Status
    queue_seconds: float | None = None
    estimate_seconds: float | None = None
    retry_after_seconds: float | None = None
    error: str | None = None


def send(
    url: str,
    load: Load,
    *,
    api_key: str | None = None,
    timeout_seconds: float = 600.0,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> list[Outcome]:
    """Send `load` to a server, and return what became of every request, in the order of arrival.

    Parameters
    ----------
    url : str
        Where the server is.
    load : Load
    api_key : str, optional
        Sent as a bearer token.
    timeout_seconds : float
        A request that is silent for longer has failed.
    on_outcome : callable, optional
        Called as each request ends.

    Raises
    ------
    InvalidArgument
        The URL is none of a server.
    Unavailable
        httpx is not installed.
    """
    httpx = require_httpx()

    async def run() -> list[Outcome]:
        async with httpx.AsyncClient(
            base_url=check_url(url),
            headers=authorization(api_key),
            timeout=httpx.Timeout(timeout_seconds),
            # A bound would be a second queue, before the server's.
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        ) as http:
            return await _send_all(http, load, on_outcome or (lambda outcome: None))

    return asyncio.run(run())


async def _send_all(
    http: httpx.AsyncClient, load: Load, on_outcome: Callable[[Outcome], None]
) -> list[Outcome]:
    begin = time.perf_counter()
    tasks = []
    for number, (due, kind) in enumerate(load.schedule()):
        await asyncio.sleep(begin + due - time.perf_counter())
        tasks.append(
            asyncio.create_task(_send_one(http, _body(load, kind, number), kind, begin, due))
        )
        tasks[-1].add_done_callback(lambda task: on_outcome(task.result()))
    return await asyncio.gather(*tasks)


def _body(load: Load, kind: Kind, number: int) -> dict[str, Any]:
    size = {} if kind.size is None else {"size": kind.size}
    seed = {"seed": load.seed + number * load.n}
    return {"n": load.n, "num_inference_steps": kind.steps, **size, **seed, **load.parameters}


async def _send_one(
    http: httpx.AsyncClient, body: dict[str, Any], kind: Kind, begin: float, due: float
) -> Outcome:
    sent = time.perf_counter() - begin
    status, facts = await _post(http, body)
    seconds = time.perf_counter() - begin - due
    return Outcome(kind.name, due, sent - due, seconds, status, **facts)


async def _post(http: httpx.AsyncClient, body: dict[str, Any]) -> tuple[Status, dict[str, Any]]:
    """Send one request; return its status and the other attributes of an `Outcome`."""
    try:
        response = await http.post(GENERATIONS, json=body)
    except require_httpx().HTTPError as error:
        return "failed", {"error": f"{type(error).__name__}: {error}"}
    if response.status_code == 429:
        asked = response.headers.get("Retry-After")
        return "refused", {"retry_after_seconds": None if asked is None else float(asked)}
    if not response.is_success:
        return "failed", {"error": f"{response.status_code}: {response.text[:200]}"}
    answer = response.json()
    names = ("queue_seconds", "estimate_seconds")
    return "answered", {name: answer.get(name) for name in names}
