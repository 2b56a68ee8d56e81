"""A benchmark run as one HTML file that opens from disk, with no network."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from fastdiff.bench.results import HEADINGS, Result, cells, ordered
from fastdiff.plots import Axis, Plot, Series, colors_of, swatch, to_figure, to_page

_STYLE = """
th:nth-child(2), td:nth-child(2), th:nth-child(3), td:nth-child(3) { text-align: left }
tr.ours { font-weight: 600 } tr.refused { color: #666 }
td[colspan] { text-align: left; white-space: normal }
"""


def to_html(results: list[Result], machine: dict[str, Any]) -> str:
    """Return the page: a table and two plots for each model and solver.

    A contender has one colour in all of them.
    """
    colors = colors_of(r.contender for r in results)
    facts = ", ".join(f"{k} {v}" for k, v in machine["packages"].items() if v)
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB"
    sections = [
        f"<p>{html.escape(machine['description'])}, {machine['cores']} cores, {memory}. "
        f"{html.escape(facts)}.</p>"
    ]
    for key in dict.fromkeys((r.model, r.solver, r.steps) for r in results):
        own = ordered(r for r in results if (r.model, r.solver, r.steps) == key)
        model, solver, steps = key
        sections.append(f"<h2>{html.escape(model)}, {html.escape(solver)} in {steps} steps</h2>")
        sections += _table(own, colors)
        plots = _latency(own, colors), _accuracy(own, colors)
        sections += [to_figure(plot) for plot in plots if plot.series]
    return to_page("fastdiff bench", "\n".join(sections), _STYLE)


def _table(results: Iterable[Result], colors: Mapping[str, str]) -> Iterator[str]:
    heads = "".join(f'<th scope="col">{html.escape(heading)}</th>' for heading in HEADINGS)
    yield f"<table><thead><tr>{heads}</tr></thead><tbody>"
    for result in results:
        texts = [html.escape(text) for text in cells(result)]
        texts[1] = swatch(colors[result.contender]) + texts[1]
        if result.refused is not None:
            rest = len(HEADINGS) - 2
            row = f"<td>{texts[0]}</td><td>{texts[1]}</td><td colspan={rest}>{texts[-1]}</td>"
            yield f'<tr class="refused">{row}</tr>'
        else:
            row = "".join(f"<td>{text}</td>" for text in texts)
            yield f"<tr{'' if result.peer else ' class=ours'}>{row}</tr>"
    yield "</tbody></table>"


def _latency(results: Iterable[Result], colors: Mapping[str, str]) -> Plot:
    """Draw a line for each contender, dashed for a peer: a point for each batch size."""
    ran = [r for r in results if r.refused is None]
    return Plot(
        "Latency over throughput: lower right is better",
        Axis("images per second", log=True),
        Axis("median step, ms", log=True),
        _series(ran, colors, lambda r: (r.images_per_second, r.p50_ms), line=True),
    )


def _accuracy(results: Iterable[Result], colors: Mapping[str, str]) -> Plot:
    """Draw a point for each contender and batch size that has an error."""
    measured = [r for r in results if r.error and math.isfinite(r.error)]
    return Plot(
        "Error against the float32 model over speed: lower right is better",
        Axis("steps per second", log=True),
        Axis("relative error of the sample", log=True),
        _series(measured, colors, lambda r: (r.steps_per_second, r.error)),
    )


def _series(
    results: Iterable[Result],
    colors: Mapping[str, str],
    point: Callable[[Result], tuple[Any, Any]],
    *,
    line: bool = False,
) -> list[Series]:
    """Return a series for each contender among `results`."""
    each: dict[str, list[Result]] = {}
    for result in results:
        each.setdefault(result.contender, []).append(result)
    return [
        Series(
            name,
            colors[name],
            [point(r) for r in own],
            line=line,
            dashed=own[0].peer,
            texts=[f"{name}, batch {r.batch}: {r.backend} {r.precision}" for r in own],
        )
        for name, own in each.items()
    ]
