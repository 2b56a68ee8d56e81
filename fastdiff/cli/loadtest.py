"""``fastdiff loadtest``: how a server answers under a given load."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from fastdiff.cli.files import prepare_files
from fastdiff.cli.terminal import make_console, show_table
from fastdiff.errors import UnknownName

if TYPE_CHECKING:
    from fastdiff.serving.loadreport import LoadReport
    from fastdiff.serving.loadtest import Outcome

_CHECK_SECONDS = 10.0


def loadtest(
    url: Annotated[str, typer.Argument(help="Where the server is: http://127.0.0.1:8000.")],
    rate: Annotated[float, typer.Option(help="Requests per second that arrive.")] = 1.0,
    duration: Annotated[float, typer.Option(help="Seconds for which they arrive.")] = 30.0,
    mix: Annotated[
        str,
        typer.Option(
            help="What they ask for: STEPS@WIDTHxHEIGHT:WEIGHT with commas between, size and "
            "weight may be left out. 10:0.8,100:0.2 is 80% of 10 steps and 20% of 100."
        ),
    ] = "10:0.8,100:0.2",
    arrivals: Annotated[
        str, typer.Option(help="poisson, as independent users come, or fixed intervals.")
    ] = "poisson",
    n: Annotated[int, typer.Option("--n", "-n", help="Images of each request.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the arrivals; the same seed, the same load.")] = 0,
    goal_ms: Annotated[
        float | None, typer.Option(help="Latency within which an answer is good, for the goodput.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="One of the server's models.")] = None,
    prompt: Annotated[str | None, typer.Option(help="What every request draws.")] = None,
    solver: Annotated[str | None, typer.Option(help="One of the model's solvers.")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale.")] = None,
    deadline_ms: Annotated[int | None, typer.Option(help="Deadline of every request.")] = None,
    api_key: Annotated[
        str | None, typer.Option(help="API key; $FASTDIFF_API_KEY if left out.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds of silence that count as failed.")] = 600,
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write every request's fate to this file.")
    ] = None,
    html_path: Annotated[
        Path | None, typer.Option("--html", help="Write a report with plots to this file.")
    ] = None,
) -> None:
    """Send requests to a server at a given rate, and report how long they took.

    Requests arrive whether or not earlier ones are done (open loop), and latency counts from the
    moment a request was due, so a server that stalls cannot hide it. Refused is 429; anything else
    but an answer is a failure, and the exit code is then 1.

    Example: fastdiff loadtest http://127.0.0.1:8000 --rate 20 --mix 10:0.8,100:0.2 --goal-ms 500
    """
    from fastdiff.serving import loadtest as room
    from fastdiff.serving.loadreport import LoadReport

    parameters = {
        "model": model,
        "prompt": prompt,
        "solver": solver,
        "guidance_scale": guidance,
        "deadline_ms": deadline_ms,
    }
    load = room.Load(
        rate=rate,
        seconds=duration,
        mix=room.parse_mix(mix),
        arrivals=arrivals,
        seed=seed,
        n=n,
        parameters={name: value for name, value in parameters.items() if value is not None},
    )
    api_key = api_key or os.environ.get("FASTDIFF_API_KEY")
    prepare_files(json_path, html_path)
    _check_server(url, api_key, model)
    with _progress() as progress:
        shown = _Shown(progress, len(load.schedule()))
        outcomes = room.send(
            url, load, api_key=api_key, timeout_seconds=timeout, on_outcome=shown.add
        )
    report = LoadReport(load, outcomes, None if goal_ms is None else goal_ms / 1000)
    _show(report)
    _write(report, json_path, html_path)
    if any(outcome.status == "failed" for outcome in outcomes):
        raise typer.Exit(1)


def _check_server(url: str, api_key: str | None, model: str | None) -> None:
    """Raise at once what would let every request fail: the address, the key, the model's name."""
    from fastdiff.serving import Client

    with Client(url, api_key=api_key, timeout_seconds=_CHECK_SECONDS, retries=0) as client:
        models = client.models()
    if model is not None and model not in models:
        raise UnknownName("model of this server", model, models)


def _progress() -> Progress:
    console = make_console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total}"),
        TimeElapsedColumn(),
        console=console,
        disable=not console.file.isatty(),
    )


class _Shown:
    """Counts on the terminal while the load runs."""

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._counts = progress, Counter[str]()
        self._task = progress.add_task("sending", total=total)

    def add(self, outcome: Outcome) -> None:
        self._counts[outcome.status] += 1
        text = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
        self._progress.update(self._task, advance=1, description=text)


def _show(report: LoadReport) -> None:
    from fastdiff.serving.loadreport import CAPTION, HEADINGS, cells

    table = Table(
        box=box.SIMPLE,
        padding=(0, 0, 0, 1),
        pad_edge=False,
        caption=CAPTION,
        caption_justify="left",
    )
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading == HEADINGS[0] else "right")
    for summary in report.summaries():
        table.add_row(*cells(summary))
    show_table(make_console(), table)
    typer.echo(
        f"{report.images_per_second:.2f} images/s; requests were sent at most "
        f"{report.late_seconds * 1e3:.0f} ms late"
    )
    errors = Counter(outcome.error for outcome in report.outcomes if outcome.error)
    for error, count in errors.most_common(3):
        typer.secho(f"{count} failed: {error}", fg="red")


def _write(report: LoadReport, json_path: Path | None, html_path: Path | None) -> None:
    from fastdiff.serving.loadreport import to_html

    if json_path is not None:
        json_path.write_text(json.dumps(report.to_json(), indent=1), encoding="utf-8")
    if html_path is not None:
        html_path.write_text(to_html(report), encoding="utf-8")
    for path in (json_path, html_path):
        if path is not None:
            typer.echo(f"wrote {path}")
