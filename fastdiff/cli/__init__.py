"""The command line.

``fastdiff demo | sample | bench | export | inspect | serve | loadtest | cache | doctor``
"""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from fastdiff import __version__
from fastdiff.cli import bench, cache, demo, doctor, export, inspect, loadtest, sample, serve
from fastdiff.errors import FastdiffError

app = typer.Typer(
    invoke_without_command=True,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("sample")(sample.sample)
app.command("bench")(bench.bench)
app.command("export")(export.export)
app.command("inspect")(inspect.inspect)
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("loadtest")(loadtest.loadtest)
app.add_typer(cache.app, name="cache")


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and leave.")
    ] = False,
) -> None:
    """Sample from diffusion models, fast."""
    if version:
        typer.echo(f"fastdiff {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; an error of fastdiff's own is one sentence and exit code 1."""
    try:
        app()
    except FastdiffError as error:
        text = Text.assemble(("error:", "bold red"), f" {error}")  # nothing in it is markup
        Console(stderr=True).print(text, soft_wrap=True)
        raise SystemExit(1) from error
