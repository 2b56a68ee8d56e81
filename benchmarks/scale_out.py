"""What a second replica on Ray adds: ``python -m benchmarks.scale_out [MODEL]``.

One replica and two stand side by side in one local cluster, a core for each replica, and take turns
at the same bursts of requests: the rate of two over that of one, in each round, is what counts.
"""

from __future__ import annotations

import argparse
import os
import socket

from fastdiff.bench.timing import Spread
from fastdiff.runtime.machine import describe_machine
from fastdiff.serving.loadtest import Kind, Load, send
from fastdiff.serving.ray import build

_ALL_AT_ONCE = 0.1  # seconds


def images_per_second(url: str, requests: int, n: int, steps: int) -> float:
    """Return the rate at which requests that come all at once are answered."""
    load = Load(requests / _ALL_AT_ONCE, _ALL_AT_ONCE, (Kind(steps, 1.0),), arrivals="fixed", n=n)
    outcomes = send(url, load)
    failed = [outcome for outcome in outcomes if outcome.status != "answered"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(outcomes)} requests: {failed[0].status}")
    return len(outcomes) * n / max(outcome.due_seconds + outcome.seconds for outcome in outcomes)


def main() -> None:
    """Print the rates of one replica and of two, and the efficiency of the second."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_out", description=__doc__)
    parser.add_argument("model", nargs="?", default="digits")
    parser.add_argument("--requests", type=int, default=32, help="of a burst")
    parser.add_argument("--n", type=int, default=4, help="images of a request")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    import ray
    from ray import serve

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    # Only one of the two applications works at a time, so together they have three logical cores.
    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    urls = {}
    for replicas in (1, 2):
        name = f"replicas-{replicas}"
        serve.run(
            build({"models": options.model, "replicas": str(replicas)}),
            name=name,
            route_prefix=f"/{name}",
        )
        urls[replicas] = f"http://127.0.0.1:{port}/{name}"
    burst = (options.requests, options.n, options.steps)
    for url in urls.values():
        images_per_second(url, *burst)  # connections and queues are warm after it
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(options.rounds):
        for replicas, url in urls.items():
            rates[replicas].append(images_per_second(url, *burst))
    speedup = Spread.of([two / one for one, two in zip(rates[1], rates[2], strict=True)])
    efficiency = Spread.of([two / one / 2 for one, two in zip(rates[1], rates[2], strict=True)])
    print(f"{describe_machine()}; {options.model}, {options.steps} steps, {options.n} per request")
    print(f"one replica    {Spread.of(rates[1]):.1f} images/s")
    print(f"two replicas   {Spread.of(rates[2]):.1f} images/s")
    print(f"two over one   {speedup:.2f}, efficiency {efficiency:.2f}")
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
