"""``fastdiff bench``: a model over backends, precisions, batches and solvers, beside the peers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastdiff.cli.files import prepare_files
from fastdiff.cli.terminal import make_console, show_table, tell_progress
from fastdiff.errors import InvalidArgument

if TYPE_CHECKING:
    from fastdiff.bench import Result


def _names(text: str) -> list[str]:
    return [] if text == "none" else [part.strip() for part in text.split(",")]


def _sizes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidArgument(
            f"--batch: expected numbers with commas between, such as 1,4, got {text!r}"
        ) from error


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="digits, ddpm-cifar10, dit-s2, dit-xl2, sd15-unet, or a folder in the diffusers "
            "layout. Named models without weights on this disk get random ones.",
        ),
    ],
    backends: Annotated[
        str, typer.Option(help="auto, or backends with commas; `fastdiff doctor` lists them.")
    ] = "auto",
    precision: Annotated[
        str, typer.Option(help="auto, float32, bfloat16, float16, int8, with commas.")
    ] = "auto",
    batch: Annotated[str, typer.Option(help="Images at a time, with commas.")] = "1,4",
    solvers: Annotated[str, typer.Option(help="Solvers, with commas.")] = "ddim",
    steps: Annotated[int, typer.Option(help="Steps of a sample.")] = 20,
    rounds: Annotated[int, typer.Option(help="Samples that each contender takes in turn.")] = 5,
    peers: Annotated[
        str, typer.Option(help="diffusers, torch.compile, onnxruntime, openvino; or none.")
    ] = "diffusers,torch.compile,onnxruntime,openvino",
    json_path: Annotated[
        Path | None, typer.Option("--json", help="Write machine and results to this file.")
    ] = None,
    html_path: Annotated[
        Path | None, typer.Option("--html", help="Write a report with plots to this file.")
    ] = None,
) -> None:
    """Measure how fast a model samples here, beside diffusers, onnxruntime and OpenVINO.

    Every contender runs in a process of its own, and they take turns, so that what else the
    machine does meets all alike. Times are those of whole samples in diffusers' sense: noise in,
    images out. p50 and p95 are of a single step; "times diffusers" is the median ratio of rounds
    with its quartiles; the error is the sample's relative distance to diffusers in float32.

    Example: fastdiff bench digits --backends onnxruntime,openvino --batch 1,4,16 --html out.html
    """
    from fastdiff import bench as room

    comparison = room.Comparison(
        backends=_names(backends),
        precisions=_names(precision),
        peers=_names(peers),
        batches=_sizes(batch),
        solvers=_names(solvers),
        steps=steps,
        rounds=rounds,
    )
    prepare_files(json_path, html_path)
    machine = room.describe_run()
    results: list[Result] = []
    for model in models:
        with tell_progress() as say:
            found = room.run(model, comparison, say)
        results += found
        for solver in comparison.solvers:
            show_table(make_console(), room.to_table([r for r in found if r.solver == solver]))
        _write(results, machine, json_path, html_path)
    typer.echo(machine["description"])
    for path in (json_path, html_path):
        if path is not None:
            typer.echo(f"wrote {path}")


def _write(
    results: list[Result], machine: dict[str, Any], json_path: Path | None, html_path: Path | None
) -> None:
    """Write what there is so far, so that a run that is cut short leaves its figures."""
    from fastdiff import bench as room

    if json_path is not None:
        json_path.write_text(json.dumps(room.to_json(results, machine), indent=1))
    if html_path is not None:
        html_path.write_text(room.to_html(results, machine), encoding="utf-8")
