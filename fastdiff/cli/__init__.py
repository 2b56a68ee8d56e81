"""The command line: ``fastdiff demo | sample | doctor``."""

from __future__ import annotations

import typer
from rich.console import Console

from fastdiff.cli import demo, doctor, sample
from fastdiff.errors import FastdiffError

app = typer.Typer(
    help="Sample from diffusion models, fast.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("demo")(demo.demo)
app.command("sample")(sample.sample)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Run the command line; an error of fastdiff's own is one sentence and exit code 1."""
    try:
        app()
    except FastdiffError as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from error
