"""The servers that `benchmarks.serving` compares, and what is measured of them."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np

from fastdiff.serving import Client
from fastdiff.serving.loadreport import LoadReport, percentile
from fastdiff.serving.loadtest import Kind, Load, Outcome, send

_SERVE = ("-c", "from fastdiff.cli import main; main()", "serve", "--log-level", "error")
CONTENDERS = {
    "fastdiff, by step": (*_SERVE, "--batching", "step"),
    "fastdiff, by request": (*_SERVE, "--batching", "request"),
    "diffusers": ("-m", "benchmarks.serving_peer"),
}
STEP, REQUEST, PEER = CONTENDERS
INVARIANT = (*_SERVE, "--batch-invariant")

MIX = (Kind(10, 0.8), Kind(100, 0.2))
SHORT, LONG = (kind.name for kind in MIX)
_MEAN_STEPS = sum(kind.steps * kind.weight for kind in MIX)
_READY_SECONDS = 1200.0
_LOOK_SECONDS = 0.25  # between two looks at the memory


class Server:
    """A server in a process of its own, ready for requests; use as a context manager.

    Parameters
    ----------
    model : str
    command : sequence of str
        Arguments of Python; the model and the port come after them.
    """

    def __init__(self, model: str, command: Sequence[str]) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._process = subprocess.Popen([sys.executable, *command, model, "--port", str(port)])

    def __enter__(self) -> Server:
        end = time.monotonic() + _READY_SECONDS
        while self._process.poll() is None and time.monotonic() < end:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz").is_success:
                    return self
            time.sleep(0.2)
        self._process.kill()
        raise RuntimeError(f"{self._process.args} did not become ready")

    def __exit__(self, *error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)

    @property
    def resident_bytes(self) -> int:
        """Memory of the process."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")


def capacities(
    servers: dict[str, Server], n: int, requests: int, rounds: int
) -> dict[str, list[float]]:
    """Measure every server's capacity in turn; the first turn warms up and does not count."""
    found: dict[str, list[float]] = {name: [] for name in servers}
    for _ in range(rounds + 1):
        for name, server in servers.items():
            found[name].append(_capacity(server, n, requests))
    return {name: rates[1:] for name, rates in found.items()}


def _capacity(server: Server, n: int, requests: int) -> float:
    """Return how many requests of the mix a second are served when they come all at once."""
    load = Load(rate=requests / 0.1, seconds=0.1, mix=MIX, arrivals="fixed", n=n)
    outcomes = answered(send(server.url, load))
    steps = sum(int(outcome.kind) for outcome in outcomes)
    end = max(outcome.due_seconds + outcome.seconds for outcome in outcomes)
    return steps / _MEAN_STEPS / end


def take_turns(servers: dict[str, Server], loads: Sequence[Load]) -> dict[str, list[LoadReport]]:
    """Send every load to every server, one at a time."""
    reports: dict[str, list[LoadReport]] = {name: [] for name in servers}
    for load in loads:
        for name, server in servers.items():
            reports[name].append(LoadReport(load, send(server.url, load)))
    return reports


def answered(outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of requests that were answered."""
    return [outcome for outcome in outcomes if outcome.status == "answered"]


@dataclass(frozen=True)
class Overload:
    """A server under more than it can do.

    Attributes
    ----------
    report : LoadReport
    resident_bytes : list of int
        Memory of its process, four times a second.
    health_seconds : list of float
        Latency of ``/healthz`` meanwhile, from when each call was due.
    """

    report: LoadReport
    resident_bytes: list[int]
    health_seconds: list[float]

    @property
    def against_estimate(self) -> float:
        """99th percentile, over accepted requests, of their time over the estimate they got."""
        shares = [
            (outcome.seconds - outcome.late_seconds) / outcome.estimate_seconds
            for outcome in answered(self.report.outcomes)
            if outcome.estimate_seconds
        ]
        return percentile(shares, 99) or float("nan")

    @property
    def growth(self) -> float:
        """Memory of the last quarter over that of the second, in medians."""
        quarter = max(len(self.resident_bytes) // 4, 1)
        second, last = self.resident_bytes[quarter : 2 * quarter], self.resident_bytes[-quarter:]
        return statistics.median(last) / statistics.median(second)

    @property
    def without_retry_after(self) -> int:
        """Refused requests that were not told when to come back."""
        refused = (o for o in self.report.outcomes if o.status == "refused")
        return sum(not outcome.retry_after_seconds for outcome in refused)


def overload(server: Server, load: Load) -> Overload:
    """Send `load` and watch the server's memory and its health."""
    resident: list[int] = []
    words = [sys.executable, "-m", "benchmarks.serving_health", server.url, f"{load.seconds}"]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as probe:
        with _regularly(lambda: resident.append(server.resident_bytes)):
            outcomes = send(server.url, load)
        health, _ = probe.communicate()
    return Overload(LoadReport(load, outcomes), resident, json.loads(health))


@contextlib.contextmanager
def _regularly(call: Callable[[], object]) -> Iterator[None]:
    stop = threading.Event()

    def repeat() -> None:
        while not stop.wait(_LOOK_SECONDS):
            call()

    thread = threading.Thread(target=repeat)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def largest_difference(server: Server, load: Load, images: int = 8) -> int:
    """Return by how many of 255 levels images differ that were made alone and made under `load`."""
    with Client(server.url) as client:
        alone = _images(client, images)
        busy = threading.Thread(target=send, args=(server.url, load))
        busy.start()
        together = _images(client, images)
        busy.join()
    return int(np.abs(alone - together).max())


def _images(client: Client, images: int) -> np.ndarray:
    made = [client.generate(steps=20 + seed, seed=seed).arrays() for seed in range(images)]
    return np.concatenate(made).astype(int)
