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
from fastdiff.compiling.machine import describe_machine
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


def table(rates: dict[int, dict[int, list[float]]]) -> Iterator[str]:
    """Yield the rates of rounds, by images of a request and number of replicas."""
    headings = ("images of a request", "one replica, images/s", "two", "two over one", "efficiency")
    yield "| " + " | ".join(headings) + " |"
    yield "|" + " ---: |" * len(headings)
    for n, found in rates.items():
        ratios = [two / one for one, two in zip(found[1], found[2], strict=True)]
        spreads = [f"{Spread.of(found[replicas]):.1f}" for replicas in found]
        spreads += [f"{Spread.of(some):.2f}" for some in (ratios, [r / 2 for r in ratios])]
        yield f"| {n} | " + " | ".join(spreads) + " |"


def main() -> None:
    """Print the figures, and put them between their marks in a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale_out", description=__doc__)
    parser.add_argument("model", nargs="?", default="digits")
    parser.add_argument("--requests", type=int, default=16, help="of a burst")
    parser.add_argument("--n", type=int, nargs="+", default=[4, 16], help="images of a request")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, help="a Markdown file with marks")
    options = parser.parse_args()

    rates: dict[int, dict[int, list[float]]] = {n: {1: [], 2: []} for n in options.n}
    with fleets(options.model) as urls:
        for replicas, url in [*urls.items()] * (1 + options.rounds):
            for n, found in rates.items():
                rate = images_per_second(url, options.requests, n, options.steps)
                found[replicas].append(rate)
    for found in rates.values():
        for own in found.values():
            del own[0]  # connections and queues are warm after it
    told = (
        f"{describe_machine()}. {datetime.date.today()}. {options.model}; {options.rounds} rounds "
        f"of {options.requests} requests at once, {options.steps} steps."
    )
    text = "\n".join([told, "", *table(rates)]) + "\n"
    print(text)
    if options.write:
        replace_figures(options.write, *_MARKS, text)


if __name__ == "__main__":
    main()
