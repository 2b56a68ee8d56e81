"""What a load test found: latencies by kind of request, goodput, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fastdiff.serving.loadtest import Load, Outcome

if TYPE_CHECKING:
    import plotly.graph_objects as go

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
"""
_COLORS = {"answered": "#2f5bd0", "refused": "#a06a00", "failed": "#b3261e"}


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
class Report:
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


def to_html(report: Report) -> str:
    """Return a page with the table and two plots, which opens from disk with no network.

    Raises
    ------
    ImportError
        plotly is not installed.
    """
    heads = "".join(f'<th scope="col">{heading}</th>' for heading in HEADINGS)
    rows = "".join(
        "<tr>" + "".join(f"<td>{html.escape(text)}</td>" for text in cells(summary)) + "</tr>"
        for summary in report.summaries()
    )
    load = report.load
    plots = [
        _over_time(report).to_html(full_html=False, include_plotlyjs=True),
        _distribution(report).to_html(full_html=False, include_plotlyjs=False),
    ]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>fastdiff loadtest</title><style>{_STYLE}</style></head>"
        f"<body><h1>fastdiff loadtest</h1><p>{load.rate:g} requests/s ({load.arrivals}) of "
        f"{load.n} images for {load.seconds:g} s; {report.images_per_second:.2f} images/s "
        f"delivered.</p><table><caption>{CAPTION}</caption><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"{''.join(plots)}</body></html>"
    )


def _over_time(report: Report) -> go.Figure:
    """Draw a point for each request: when it was due, and how long it took."""
    import plotly.graph_objects as go

    figure = go.Figure()
    symbols = ("circle", "diamond", "square", "triangle-up", "cross", "x")
    for number, kind in enumerate(report.load.mix):
        for status, color in _COLORS.items():
            own = [o for o in report.outcomes if (o.kind, o.status) == (kind.name, status)]
            if own:
                figure.add_scatter(
                    x=[o.due_seconds for o in own],
                    y=[o.seconds for o in own],
                    mode="markers",
                    marker={"color": color, "symbol": symbols[number % len(symbols)]},
                    name=f"{kind.name} steps, {status}",
                )
    return _titled(figure, "Latency over time", "due, s", "latency, s", report)


def _distribution(report: Report) -> go.Figure:
    """Draw for each kind which share was answered within a latency; refused ones never are."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for kind in report.load.mix:
        own = [o for o in report.outcomes if o.kind == kind.name]
        seconds = sorted(o.seconds for o in own if o.status == "answered")
        share = (np.arange(len(seconds)) + 1) / max(len(own), 1)
        figure.add_scatter(
            x=share, y=seconds, mode="lines", name=f"{kind.name} steps", line_shape="vh"
        )
    return _titled(figure, "Latency within which a share was answered", "share", "s", report)


def _titled(figure: go.Figure, title: str, x: str, y: str, report: Report) -> go.Figure:
    if report.goal_seconds is not None:
        figure.add_hline(report.goal_seconds, line_dash="dot", annotation_text="goal")
    return figure.update_layout(
        title=title,
        xaxis={"title": x},
        yaxis={"title": y, "rangemode": "tozero"},
        template="plotly_white",
    )
