"""What servers do under load: ``python -m benchmarks.serving [MODEL...] [--write FILE]``.

Three servers stand side by side, each in a process of its own, and take turns: fastdiff batching by
step, the same engine batching by request, and diffusers' own loop behind the same HTTP front
(`benchmarks.serving_peer`). Arrivals are those of `fastdiff loadtest`, the same for all.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from benchmarks.marks import replace_figures
from benchmarks.serving_runs import (
    CONTENDERS,
    INVARIANT,
    LONG,
    MIX,
    PEER,
    REQUEST,
    SHORT,
    STEP,
    Overload,
    Server,
    capacities,
    largest_difference,
    overload,
    take_turns,
)
from fastdiff.bench.timing import Spread
from fastdiff.compiling.machine import describe_machine
from fastdiff.serving.loadreport import LoadReport, Summary, percentile
from fastdiff.serving.loadtest import Load

_SHARE = 0.8  # of capacity, at which latencies are compared
_OVERLOAD = 3.0  # times capacity


@dataclass(frozen=True)
class Plan:
    """How a model is measured.

    Attributes
    ----------
    n : int
        Images of a request: several where a model is so quick that HTTP costs as much as a step.
    burst : int
        Requests that come at once to measure capacity.
    seconds : float
        Length of a turn.
    rounds : int
        Turns of each server.
    overload_seconds : float
        For how long more comes than can be served.
    """

    n: int
    burst: int
    seconds: float
    rounds: int
    overload_seconds: float = 60.0


PLANS = {
    "digits": Plan(n=4, burst=60, seconds=30.0, rounds=3),
    "ddpm-cifar10": Plan(n=1, burst=16, seconds=120.0, rounds=2),
}
_SMOKE = Plan(n=1, burst=6, seconds=3.0, rounds=1, overload_seconds=4.0)


def section(model: str, plan: Plan, say: Console) -> Iterator[str]:
    """Measure one model and yield its Markdown."""
    yield (
        f"{describe_machine()}. {datetime.date.today()}. Requests of {plan.n} images; "
        f"{plan.rounds} turns of {plan.seconds:g} s for each server."
    )
    yield ""
    with ExitStack() as stack:
        servers = {}
        for name, command in CONTENDERS.items():
            say.print(f"{model}: starting {name} ...")
            servers[name] = stack.enter_context(Server(model, command))
        say.print("capacity ...")
        found = capacities(servers, plan.n, plan.burst, plan.rounds)
        yield from capacity_table(found)
        able = {name: Spread.of(rates).median for name, rates in found.items()}
        for reference in (REQUEST, PEER):
            say.print(f"{_SHARE:.0%} of what {reference} can do ...")
            rate = _SHARE * able[reference]
            loads = [Load(rate, plan.seconds, MIX, seed=i, n=plan.n) for i in range(plan.rounds)]
            yield from latency_table(take_turns(servers, loads), able, reference)
        say.print(f"{_OVERLOAD:g} times capacity ...")
        load = Load(_OVERLOAD * able[STEP], plan.overload_seconds, MIX, n=plan.n)
        yield from overload_table(overload(servers[STEP], load))
        say.print("the same images ...")
        load = Load(_SHARE * able[STEP], plan.seconds, MIX, n=plan.n)
        usual = largest_difference(servers[STEP], load)
    with Server(model, INVARIANT) as server:
        invariant = largest_difference(server, load)
    yield "| images made alone and again under load | largest difference, of 255 |"
    yield "| --- | ---: |"
    yield f"| `--batch-invariant` | {invariant} |"
    yield f"| without | {usual} |"


def capacity_table(found: dict[str, list[float]]) -> Iterator[str]:
    """Compare what the servers can do."""
    yield "| server | capacity, requests/s | times by request |"
    yield "| --- | ---: | ---: |"
    for name, rates in found.items():
        yield f"| {name} | {Spread.of(rates):.2f} | {_ratios(rates, found[REQUEST])} |"
    yield ""


def latency_table(
    reports: dict[str, list[LoadReport]], able: dict[str, float], reference: str
) -> Iterator[str]:
    """Compare latencies of the same arrivals; ratios are to batching by request."""
    rate = reports[STEP][0].load.rate
    yield f"{rate:.2f} requests/s: {_SHARE:.0%} of the capacity of {reference}."
    yield ""
    headings = (
        "server", "load", "short mean s", "short p95 s", "long p95 s", "images/s", "refused",
        "short mean, times by request", "short p95, times by request",
    )  # fmt: skip
    yield "| " + " | ".join(headings) + " |"
    yield "| --- |" + " ---: |" * (len(headings) - 1)
    for name, own in reports.items():
        short, long = _of_kind(own, SHORT), _of_kind(own, LONG)
        by_request = _of_kind(reports[REQUEST], SHORT)
        cells = (
            name,
            f"{rate / able[name]:.0%}",
            f"{_spread([s.mean_seconds for s in short]):.3f}",
            f"{_spread([s.p95_seconds for s in short]):.3f}",
            f"{_spread([s.p95_seconds for s in long]):.3f}",
            f"{_spread([report.images_per_second for report in own]):.2f}",
            str(sum(s.refused for s in short + long)),
            f"{_ratios([s.mean_seconds for s in short], [s.mean_seconds for s in by_request])}",
            f"{_ratios([s.p95_seconds for s in short], [s.p95_seconds for s in by_request])}",
        )
        yield "| " + " | ".join(cells) + " |"
    yield ""


def _of_kind(reports: list[LoadReport], kind: str) -> list[Summary]:
    return [s for report in reports for s in report.summaries() if s.kind == kind]


def _spread(values: Sequence[float | None]) -> Spread:
    known = [value for value in values if value is not None]
    return Spread.of(known or [float("nan")])


def _ratios(own: Sequence[float | None], other: Sequence[float | None]) -> str:
    """Return the median ratio of rounds, with its quartiles."""
    pairs = [(a, b) for a, b in zip(own, other, strict=True) if a and b]
    return f"{_spread([a / b for a, b in pairs]):.2f}"


def overload_table(found: Overload) -> Iterator[str]:
    """Show what became of the requests, and of the server."""
    (*_, total) = found.report.summaries()
    health = found.health_seconds
    rows = {
        "load": f"{found.report.load.rate:.2f} requests/s for {found.report.load.seconds:g} s",
        "answered": str(total.answered),
        "refused with 429": str(total.refused),
        "... of those without `Retry-After`": str(found.without_retry_after),
        "failed in another way": str(total.failed),
        "p99 of the time of accepted requests, of the estimate they got": (
            f"{found.against_estimate:.0%}"
        ),
        "memory of the last quarter, of the second": f"{found.growth:.1%}",
        "`/healthz` p50, p99, max": ", ".join(
            f"{(percentile(health, p) or 0.0) * 1e3:.1f} ms" for p in (50, 99, 100)
        ),
    }
    yield f"| {_OVERLOAD:g} times the capacity of {STEP} | |"
    yield "| --- | ---: |"
    for name, value in rows.items():
        yield f"| {name} | {value} |"
    yield ""


def main() -> None:
    """Print the sections, and put them between their marks in a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(PLANS), help=", ".join(PLANS))
    parser.add_argument("--smoke", action="store_true", help="seconds of everything, no figures")
    parser.add_argument("--seconds", type=float, help="length of a turn, instead of the model's")
    parser.add_argument("--rounds", type=int, help="turns of each server, instead of the model's")
    parser.add_argument("--write", type=Path, help="a Markdown file with marks for each model")
    options = parser.parse_args()
    for model in options.models:
        plan = _SMOKE if options.smoke else PLANS[model]
        plan = replace(
            plan,
            seconds=options.seconds or plan.seconds,
            rounds=options.rounds or plan.rounds,
        )
        text = "\n".join(section(model, plan, Console(stderr=True))) + "\n"
        print(text, flush=True)
        if options.write:
            begin, end = f"<!-- figures: {model} -->\n", f"<!-- /figures: {model} -->"
            replace_figures(options.write, begin, end, text)


if __name__ == "__main__":
    main()
