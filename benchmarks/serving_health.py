"""How long ``/healthz`` takes: ``python -m benchmarks.serving_health URL SECONDS``.

A small process of its own, so that the load generator does not delay its clock. Prints the
latencies in seconds as JSON; each counts from the moment that its call was due.
"""

from __future__ import annotations

import http.client
import json
import sys
import time
from urllib.parse import urlsplit

_INTERVAL_SECONDS = 0.02


def probe(url: str, seconds: float) -> list[float]:
    """Call ``/healthz`` at fixed intervals and return the latencies."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    begin, latencies = time.perf_counter(), []
    for number in range(round(seconds / _INTERVAL_SECONDS)):
        due = begin + number * _INTERVAL_SECONDS
        time.sleep(max(due - time.perf_counter(), 0))
        connection.request("GET", "/healthz")
        connection.getresponse().read()
        latencies.append(time.perf_counter() - due)
    return latencies


if __name__ == "__main__":
    json.dump(probe(sys.argv[1], float(sys.argv[2])), sys.stdout)
