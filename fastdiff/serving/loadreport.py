"""What a load test found: latencies by kind of request, goodput, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastdiff.plots import Axis, Plot, Series, colors_of, swatch, to_figure, to_page
from fastdiff.serving.loadtest import Load, Outcome

_STYLE = "th:first-child, td:first-child { text-align: left }"
_MARKERS = {"answered": "dot", "refused": "cross", "failed": "plus"}


@dataclass(frozen=True)
class Summary:
    """Requests of one kind, or of all.

    Attributes
    ----------
    kind : str
        ``"all"``, or a `Kind.name`.
    sent, answered, refused, failed : int
    mean_seconds, p50_seconds, p95_seconds, p99_seconds, max_seconds : float or None
        Latency of the answered, from when each was due; None if none was answered. A percentile is
        the smallest observed latency that so many were within.
    queue_p50_seconds : float or None
        Wait in the server's queue, as it says.
    goodput : float or None
        Share of the sent requests that were answered within the goal; None without a goal.
    """

    kind: str
    sent: int
    answered: int
    refused: int
    failed: int
    mean_seconds: float | None
    p50_seconds: float | None
    p95_seconds: float | None
    p99_seconds: float | None
    max_seconds: float | None
    queue_p50_seconds: float | None
    goodput: float | None


@dataclass(frozen=True)
class LoadReport:
    """A load test.

    Attributes
    ----------
    load : Load
    outcomes : list of Outcome
        In the order of arrival.
    goal_seconds : float or None
        The latency that counts as good.
    """

    load: Load
    outcomes: list[Outcome]
    goal_seconds: float | None = None

    @property
    def seconds(self) -> float:
        """From the first arrival's clock to the last answer, at least as long as the load."""
        ends = (outcome.due_seconds + outcome.seconds for outcome in self.outcomes)
        return max(self.load.seconds, *ends) if self.outcomes else self.load.seconds

    @property
    def images_per_second(self) -> float:
        """Images delivered, over `seconds`."""
        answered = sum(outcome.status == "answered" for outcome in self.outcomes)
        return answered * self.load.n / self.seconds

    @property
    def late_seconds(self) -> float:
        """How far the load generator fell behind its own schedule at worst."""
        return max((outcome.late_seconds for outcome in self.outcomes), default=0.0)

    def summaries(self) -> list[Summary]:
        """Return a summary of each kind in the mix, and of all if there are several."""
        kinds = [kind.name for kind in self.load.mix]
        found = [self._summary(k, [o for o in self.outcomes if o.kind == k]) for k in kinds]
        return [*found, self._summary("all", self.outcomes)] if len(kinds) > 1 else found

    def _summary(self, kind: str, outcomes: Sequence[Outcome]) -> Summary:
        answered = [o for o in outcomes if o.status == "answered"]
        seconds = [o.seconds for o in answered]
        queued = [o.queue_seconds for o in answered if o.queue_seconds is not None]
        good = sum(s <= (self.goal_seconds or 0.0) for s in seconds)
        return Summary(
            kind=kind,
            sent=len(outcomes),
            answered=len(answered),
            refused=sum(o.status == "refused" for o in outcomes),
            failed=sum(o.status == "failed" for o in outcomes),
            mean_seconds=float(np.mean(seconds)) if seconds else None,
            p50_seconds=percentile(seconds, 50),
            p95_seconds=percentile(seconds, 95),
            p99_seconds=percentile(seconds, 99),
            max_seconds=max(seconds, default=None),
            queue_p50_seconds=percentile(queued, 50),
            goodput=None if self.goal_seconds is None else good / max(len(outcomes), 1),
        )

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "load": dataclasses.asdict(self.load),
            "goal_seconds": self.goal_seconds,
            "seconds": self.seconds,
            "images_per_second": self.images_per_second,
            "late_seconds": self.late_seconds,
            "summaries": [dataclasses.asdict(summary) for summary in self.summaries()],
            "outcomes": [dataclasses.asdict(outcome) for outcome in self.outcomes],
        }


def percentile(values: Sequence[float], percent: float) -> float | None:
    """Return the smallest of `values` that `percent` percent are within; None if there are none."""
    if not values:
        return None
    return float(np.percentile(np.asarray(values), percent, method="inverted_cdf"))


HEADINGS = (
    "steps", "sent", "ok", "429", "failed", "mean", "p50", "p95", "p99", "max", "queue", "good",
)  # fmt: skip
CAPTION = "Latency from when a request was due, in s; queue: the median wait in the queue."


def cells(summary: Summary) -> list[str]:
    """Return the texts under `HEADINGS`."""
    counts = (summary.sent, summary.answered, summary.refused, summary.failed)
    times = (
        summary.mean_seconds,
        summary.p50_seconds,
        summary.p95_seconds,
        summary.p99_seconds,
        summary.max_seconds,
        summary.queue_p50_seconds,
    )
    return [
        summary.kind,
        *map(str, counts),
        *("" if seconds is None else f"{seconds:.3g}" for seconds in times),
        "" if summary.goodput is None else f"{summary.goodput:.0%}",
    ]


def to_html(report: LoadReport) -> str:
    """Return a page with the table and two plots; a kind of request has one colour in all."""
    colors = colors_of(kind.name for kind in report.load.mix)
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{text}</td>" for text in _cells_as_html(summary, colors)) + "</tr>"
        for summary in report.summaries()
    )
    load = report.load
    return to_page(
        "fastdiff loadtest",
        f"<p>{load.rate:g} requests/s ({load.arrivals}) of {load.n} images for {load.seconds:g} s; "
        f"{report.images_per_second:.2f} images/s delivered.</p><table><caption>{CAPTION}</caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"{to_figure(_over_time(report, colors))}{to_figure(_distribution(report, colors))}",
        _STYLE,
    )


def _cells_as_html(summary: Summary, colors: Mapping[str, str]) -> list[str]:
    first, *others = map(html.escape, cells(summary))
    color = colors.get(summary.kind)
    return [first if color is None else swatch(color) + first, *others]


def _over_time(report: LoadReport, colors: Mapping[str, str]) -> Plot:
    """Draw a mark for each request: when it was due, how long it took and what became of it."""
    series = []
    for kind in report.load.mix:
        for status, marker in _MARKERS.items():
            own = [o for o in report.outcomes if (o.kind, o.status) == (kind.name, status)]
            points = [(o.due_seconds, o.seconds) for o in own]
            name = f"{kind.name} steps, {status}"
            if own:
                series.append(Series(name, colors[kind.name], points, marker))
    return _with_goal("Latency over time", Axis("when it was due, s"), series, report)


def _distribution(report: LoadReport, colors: Mapping[str, str]) -> Plot:
    """Draw for each kind which share was answered within a latency; refused ones never are."""
    series = []
    for kind in report.load.mix:
        own = [o for o in report.outcomes if o.kind == kind.name]
        seconds = sorted(o.seconds for o in own if o.status == "answered")
        points = [(100 * (i + 1) / len(own), value) for i, value in enumerate(seconds)]
        series.append(Series(f"{kind.name} steps", colors[kind.name], points, None, line=True))
    axis = Axis("share of the requests, %")
    return _with_goal("Latency within which a share was answered", axis, series, report)


def _with_goal(title: str, x: Axis, series: list[Series], report: LoadReport) -> Plot:
    return Plot(title, x, Axis("latency, s"), series, report.goal_seconds, "goal")
