"""``fastdiff cache``: the compiled models that are kept on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastdiff.errors import ArtifactError, UnknownName

if TYPE_CHECKING:
    from fastdiff.compiling.report import Report
    from fastdiff.storing import Cache
    from fastdiff.storing.cache import Entry

app = typer.Typer(help="The compiled models kept on this machine, and what was measured of them.")
Name = Annotated[
    str, typer.Argument(help="A model of `fastdiff cache list`, or the beginning of its entry.")
]
_KEY_LETTERS = 10


@app.command("list")
def list_entries() -> None:
    """Show every kept model: what was chosen for it, its size, and when it was used."""
    from fastdiff.storing import Cache

    cache = Cache()
    table = Table(title=Text(str(cache.folder)), title_justify="left")
    for heading in ("model", "entry", "chosen", "rows/s", "size", "last used"):
        table.add_column(heading, justify="right" if heading in {"rows/s", "size"} else "left")
    entries = cache.entries()
    for entry in entries:
        report, hours = _report(entry), (time.time() - entry.used) / 3600
        told = (
            ("another version's", "", "")
            if report is None
            else (report.model, report.chosen.name, f"{report.chosen.rows_per_second:.0f}")
        )
        model, chosen, rate = map(Text, told)
        key = entry.path.stem[:_KEY_LETTERS]
        table.add_row(model, key, chosen, rate, f"{entry.size / 1e6:.1f} MB", f"{hours:.1f} h ago")
    console = Console()
    console.print(table)
    total = sum(entry.size for entry in entries)
    console.print(
        f"{len(entries)} models, {total / 1e6:.1f} MB of {cache.limit_bytes / 1e6:.0f} MB"
    )


@app.command("show")
def show(name: Name) -> None:
    """Print what was measured when a model was compiled: every backend, its times and its error."""
    from fastdiff.storing import Cache

    for entry, report in _named(Cache(), name):
        console = Console()
        console.print(Text(f"{entry.path}"), soft_wrap=True)
        console.print("measured by another version" if report is None else report.table())


@app.command("renew")
def renew(name: Name) -> None:
    """Forget what was measured of a model, which the next compile then measures anew."""
    from fastdiff.storing import Cache

    for entry, report in _named(Cache(), name):
        entry.path.unlink(missing_ok=True)
        model = entry.path.stem[:_KEY_LETTERS] if report is None else report.model
        Console().print(Text(f"{model} will be measured anew when it is compiled again"))


@app.command("clear")
def clear() -> None:
    """Remove every kept model; they are compiled again when they are needed."""
    from fastdiff.storing import Cache

    cache = Cache()
    Console().print(Text(f"removed {cache.clear()} models from {cache.folder}"))


def _report(entry: Entry) -> Report | None:
    """Return what was measured, None where this version cannot read it."""
    from fastdiff.storing.artifact import read_report

    try:
        return read_report(entry.path)
    except (ArtifactError, FileNotFoundError):
        return None


def _named(cache: Cache, name: str) -> list[tuple[Entry, Report | None]]:
    """Return the entries of the model `name`, or whose key begins so."""
    known = [(entry, _report(entry)) for entry in cache.entries()]
    found = [
        (entry, report)
        for entry, report in known
        if entry.path.stem.startswith(name) or (report and report.model == name)
    ]
    if not found:
        names = {entry.path.stem[:_KEY_LETTERS] for entry, _ in known}
        names |= {report.model for _, report in known if report}
        raise UnknownName("kept model", name, names)
    return found
