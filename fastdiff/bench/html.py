"""A benchmark run as one HTML file that opens from disk, with no network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from fastdiff.bench.results import HEADINGS, Result, cells, ordered
from fastdiff.errors import Unavailable

if TYPE_CHECKING:
    import plotly.graph_objects as go

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 1rem 0 }
th, td { padding: .2rem .8rem; text-align: right; border-bottom: 1px solid #ddd }
th:nth-child(2), td:nth-child(2), th:nth-child(3), td:nth-child(3) { text-align: left }
tr.ours { font-weight: 600 } tr.refused { color: #666 } td[colspan] { text-align: left }
"""


def require_plotly() -> None:
    """Raise before the measuring rather than after it.

    Raises
    ------
    Unavailable
        The plotting library is not installed.
    """
    try:
        import plotly  # noqa: F401
    except ImportError as error:
        raise Unavailable(
            "--html draws with plotly: pip install 'fastdiff-runtime[bench]'"
        ) from error


def to_html(results: list[Result], machine: dict[str, Any]) -> str:
    """Return the page: a table and two plots for each model and solver."""
    sections = []
    script: bool | str = True  # the plotting script goes in once
    for key in dict.fromkeys((r.model, r.solver, r.steps) for r in results):
        own = [r for r in results if (r.model, r.solver, r.steps) == key]
        model, solver, steps = key
        sections.append(f"<h2>{html.escape(model)}, {html.escape(solver)} in {steps} steps</h2>")
        sections += _table(own)
        for figure in (_latency(own), _accuracy(own)):
            if figure is not None:
                sections.append(figure.to_html(full_html=False, include_plotlyjs=script))
                script = False
    facts = ", ".join(f"{k} {v}" for k, v in machine["packages"].items() if v)
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB"
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>fastdiff bench</title><style>{_STYLE}</style></head><body><h1>fastdiff bench</h1>"
        f"<p>{html.escape(machine['description'])}, {machine['cores']} cores, {memory}. "
        f"{html.escape(facts)}.</p>" + "\n".join(sections) + "</body></html>"
    )


def _table(results: Iterable[Result]) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in HEADINGS)
    yield f"<table><thead><tr>{heads}</tr></thead><tbody>"
    for result in ordered(results):
        texts = [html.escape(text) for text in cells(result)]
        if result.refused is not None:
            row = f"<td>{texts[0]}</td><td>{texts[1]}</td><td colspan=8>{texts[-1]}</td>"
            yield f'<tr class="refused">{row}</tr>'
        else:
            row = "".join(f"<td>{text}</td>" for text in texts)
            yield f"<tr{'' if result.peer else ' class=ours'}>{row}</tr>"
    yield "</tbody></table>"


def _latency(results: list[Result]) -> go.Figure | None:
    """Draw a line for each contender: a point for each batch size."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name in dict.fromkeys(r.contender for r in results):
        own = [r for r in ordered(results) if r.contender == name and r.refused is None]
        if own:
            figure.add_scatter(
                x=[r.images_per_second for r in own],
                y=[r.p50_ms for r in own],
                text=[f"batch {r.batch}" for r in own],
                mode="lines+markers",
                name=name,
                line={"dash": "dot" if own[0].peer else "solid"},
            )
    figure.update_layout(
        title="Latency over throughput: lower right is better",
        xaxis={"title": "images per second", "type": "log"},
        yaxis={"title": "median step, ms", "type": "log"},
        template="plotly_white",
    )
    return figure if figure.data else None


def _accuracy(results: list[Result]) -> go.Figure | None:
    """Draw a point for each contender and batch size."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name in dict.fromkeys(r.contender for r in results):
        own = [r for r in ordered(results) if r.contender == name and r.error]
        if own:
            figure.add_scatter(
                x=[r.steps_per_second for r in own],
                y=[r.error for r in own],
                text=[f"batch {r.batch}, {r.backend} {r.precision}" for r in own],
                mode="markers",
                name=name,
            )
    figure.update_layout(
        title="Error against the float32 model over speed: lower right is better",
        xaxis={"title": "steps per second", "type": "log"},
        yaxis={"title": "relative error of the sample", "type": "log", "exponentformat": "power"},
        template="plotly_white",
    )
    return figure if figure.data else None
