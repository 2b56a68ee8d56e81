"""``fastdiff cache``: the compiled models that are kept on this machine."""

from __future__ import annotations

import time

import typer
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="List or clear the compiled models kept on this machine.")


@app.command("list")
def list_entries() -> None:
    """Show every kept model with its size and the time since it was used."""
    from fastdiff.runtime import Cache

    cache = Cache()
    table = Table(title=str(cache.folder), title_justify="left")
    for heading in ("model", "size", "last used"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    entries = cache.entries()
    for entry in entries:
        hours = (time.time() - entry.used) / 3600
        table.add_row(entry.path.stem, f"{entry.size / 1e6:.1f} MB", f"{hours:.1f} h ago")
    console = Console()
    console.print(table)
    total = sum(entry.size for entry in entries)
    console.print(
        f"{len(entries)} models, {total / 1e6:.1f} MB of {cache.limit_bytes / 1e6:.0f} MB"
    )


@app.command("clear")
def clear() -> None:
    """Remove every kept model; they are compiled again when they are needed."""
    from fastdiff.runtime import Cache

    cache = Cache()
    Console().print(f"removed {cache.clear()} models from {cache.folder}")
