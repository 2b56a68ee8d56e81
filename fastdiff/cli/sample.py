"""``fastdiff sample``: images from a model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from fastdiff.errors import InvalidArgument
from fastdiff.sampling import list_solvers


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InvalidArgument(
            f"--classes: expected numbers with commas between, such as 3,7, got {text!r}"
        ) from error


def sample(
    model: Annotated[
        str,
        typer.Argument(
            help="`digits`, a folder in the diffusers layout, or a saved .fastdiff file."
        ),
    ],
    classes: Annotated[
        str | None, typer.Option(help="Class labels with commas between: 3,7. Each gets N images.")
    ] = None,
    n: Annotated[int, typer.Option("--n", "-n", min=1, help="Images (of each class).")] = 1,
    solver: Annotated[
        str, typer.Option(help="One of: " + ", ".join(list_solvers()) + ".")
    ] = "ddim",
    steps: Annotated[int, typer.Option(help="Solver steps.")] = 50,
    seed: Annotated[
        int | None, typer.Option(help="Noise seed; the same seed gives the same images.")
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Classifier-free guidance scale; 1 is none.")
    ] = 1.0,
    eta: Annotated[float | None, typer.Option(help="Noise of DDIM, 0 to 1.")] = None,
    out: Annotated[
        Path, typer.Option(help="A .png (grid) or .npy (float32 array) to write.")
    ] = Path("samples.png"),
    backend: Annotated[
        str, typer.Option(help="auto, or an engine; `fastdiff doctor` lists them.")
    ] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    save: Annotated[
        Path | None, typer.Option(help="Keep the compiled model in this .fastdiff file.")
    ] = None,
) -> None:
    """Sample images from a model and write them as a grid or as an array.

    Example: fastdiff sample digits --classes 3,7 -n 8 --guidance 2 --seed 1 --out threes.png
    """
    import fastdiff
    from fastdiff.cli.images import save as save_images

    if out.suffix not in {".png", ".npy"}:
        raise InvalidArgument(f"--out: expected a name ending in .png or .npy, got {out.name!r}")
    labels = _numbers(classes) if classes is not None else None
    conditioning: dict[str, Any] = {}
    if labels is not None:
        conditioning["class_labels"] = [label for label in labels for _ in range(n)]
    console = Console()
    if model.endswith(".fastdiff"):
        sampler = fastdiff.load(model, progress=True)
    else:
        sampler = fastdiff.compile(model, backend=backend, precision=precision, progress=True)
    if save is not None:
        sampler.save(save)
    begin = time.perf_counter()
    images = sampler.sample(
        n * len(labels) if labels else n,
        solver=solver,
        steps=steps,
        eta=eta,
        guidance_scale=guidance,
        seed=seed,
        progress=True,
        **conditioning,
    )
    seconds = time.perf_counter() - begin
    save_images(images, out, columns=min(len(images), max(n, 8)) if labels is None else n)
    console.print(
        f"{sampler}: {len(images)} images in {seconds:.2f} s, {len(images) / seconds:.1f} images/s"
    )
    console.print(f"wrote {out}")
