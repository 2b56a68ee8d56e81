"""``fastdiff demo``: pictures of digits, and how fast they came."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fastdiff.cli.files import prepare_files
from fastdiff.cli.terminal import make_console, show_table


def demo(
    out: Annotated[Path, typer.Option(help="Picture to write.")] = Path("digits.png"),
    rows: Annotated[int, typer.Option(min=1, max=100, help="Images of each digit.")] = 5,
    steps: Annotated[int, typer.Option(help="Solver steps.")] = 50,
    solver: Annotated[str, typer.Option(help="Solver; `sample --help` lists them.")] = "ddim",
    guidance: Annotated[float, typer.Option(help="Classifier-free guidance scale.")] = 1.5,
    seed: Annotated[int, typer.Option(help="Noise seed.")] = 0,
) -> None:
    """Sample the digits 0 to 9 with the model that comes with the package.

    Compiles the model for this machine, prints what was measured, samples a grid and writes it.
    """
    import fastdiff
    from fastdiff.cli.media import save

    prepare_files(out)
    begin = time.perf_counter()
    sampler = fastdiff.compile("digits", progress=True)
    typer.echo(f"compiled in {time.perf_counter() - begin:.1f} s")
    show_table(make_console(), sampler.report.table())
    labels = list(range(10)) * rows
    begin = time.perf_counter()
    images = sampler.sample(
        class_labels=labels,
        solver=solver,
        steps=steps,
        guidance_scale=guidance,
        seed=seed,
        progress=True,
    )
    seconds = time.perf_counter() - begin
    save(images, out, columns=10)
    typer.echo(
        f"{len(labels)} images of {steps} guided steps in {seconds:.2f} s: "
        f"{len(labels) / seconds:.1f} images/s, {len(labels) * steps / seconds:.0f} row steps/s"
    )
    typer.echo(f"wrote {out}")
