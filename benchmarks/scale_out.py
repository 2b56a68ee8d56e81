"""What a second replica on Ray adds: ``python -m benchmarks.scale_out [MODEL]``.

One replica and two stand side by side in one local cluster, a thread for each replica, and take
turns at the same bursts of requests: the rate of two over that of one, in each round, is what
counts.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from benchmarks.marks import replace_figures
from fastdiff.bench.timing import Spread
from fastdiff.runtime.machine import describe_machine
from fastdiff.serving.loadtest import Kind, Load, send
from fastdiff.serving.ray import build

_ALL_AT_ONCE = 0.1  # seconds
_MARKS = "<!-- figures: scale-out -->\n", "<!-- /figures: scale-out -->"


@contextlib.contextmanager
def fleets(model: str) -> Iterator[dict[int, str]]:
    """Serve `model` by one replica and, apart, by two; gives their URLs by number of replicas."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # replicas are what is measured
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
        application = build({"models": model, "replicas": str(replicas)})
        serve.run(application, name=name, route_prefix=f"/{name}")
        urls[replicas] = f"http://127.0.0.1:{port}/{name}"
    yield urls
    serve.shutdown()
    ray.shutdown()


def images_per_second(url: str, requests: int, n: int, steps: int) -> float:
    """Return the rate at which requests that come all at once are answered."""
    load = Load(requests / _ALL_AT_ONCE, _ALL_AT_ONCE, (Kind(steps, 1.0),), arrivals="fixed", n=n)
    outcomes = send(url, load)
    failed = [outcome for outcome in outcomes if outcome.status != "answered"]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(outcomes)} requests: {failed[0].status}")
    return len(outcomes) * n / max(outcome.due_seconds + outcome.seconds for outcome in outcomes)


def table(one: list[float], two: list[float]) -> Iterator[str]:
    """Yield the rates of one replica and of two in the same rounds, and what the second adds."""
    ratios = [b / a for a, b in zip(one, two, strict=True)]
    yield "| | |"
    yield "| --- | ---: |"
    yield f"| one replica, images/s | {Spread.of(one):.1f} |"
    yield f"| two replicas, images/s | {Spread.of(two):.1f} |"
    yield f"| two over one | {Spread.of(ratios):.2f} |"
    yield f"| efficiency, half of that | {Spread.of([ratio / 2 for ratio in ratios]):.2f} |"


def main() -> None:
    """Print the figures, and put them between their marks in a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_out", description=__doc__)
    parser.add_argument("model", nargs="?", default="digits")
    parser.add_argument("--requests", type=int, default=32, help="of a burst")
    parser.add_argument("--n", type=int, default=4, help="images of a request")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, help="a Markdown file with marks")
    options = parser.parse_args()

    burst = (options.requests, options.n, options.steps)
    rates: dict[int, list[float]] = {1: [], 2: []}
    with fleets(options.model) as urls:
        for url in urls.values():
            images_per_second(url, *burst)  # connections and queues are warm after it
        for _ in range(options.rounds):
            for replicas, url in urls.items():
                rates[replicas].append(images_per_second(url, *burst))
    told = (
        f"{describe_machine()}. {datetime.date.today()}. {options.model}; {options.rounds} rounds "
        f"of {options.requests} requests for {options.n} images of {options.steps} steps."
    )
    text = "\n".join([told, "", *table(rates[1], rates[2])]) + "\n"
    print(text)
    if options.write:
        replace_figures(options.write, *_MARKS, text)


if __name__ == "__main__":
    main()
