"""``fastdiff export``: a model, or a whole sampler, as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from fastdiff.errors import InvalidArgument
from fastdiff.sampling import get_solver, list_solvers

if TYPE_CHECKING:
    from fastdiff.networks import SampleShape


def export(
    model: Annotated[
        str, typer.Argument(help="A name, such as `digits`, or a folder in the diffusers layout.")
    ],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
    loop: Annotated[
        bool, typer.Option("--loop", help="Write the whole sampler: seeds in, images out.")
    ] = False,
    solver: Annotated[
        str | None,
        typer.Option(
            help="With --loop, one of: " + ", ".join(list_solvers()) + ". (ddim if left out)"
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="With --loop: solver steps. (50 if left out)")
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(
            help="With --loop: classifier-free guidance scale. (1, which is none, if left out)"
        ),
    ] = None,
    eta: Annotated[
        float | None, typer.Option(help="With --loop: noise of DDIM, 0 to 1. (0 if left out)")
    ] = None,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="Without --loop: leave height and width open.")
    ] = False,
) -> None:
    """Write a model, or with --loop a whole sampler, as one ONNX file for any onnxruntime.

    Without --loop the file is the network: x, t and its conditioning in, its prediction out.

    With --loop it is the sampler, noise included: each seed gives the image that
    `sampler.sample(seed=[...])` gives.

    Example: fastdiff export digits digits.onnx --loop --solver dpmpp_2m --steps 20 --guidance 2
    """
    from fastdiff.compiler import describe
    from fastdiff.exporting import export_onnx, export_sampler

    if out.suffix != ".onnx":
        raise InvalidArgument(f"OUT: expected a name ending in .onnx, got {out.name!r}")
    options = {"--solver": solver, "--steps": steps, "--guidance": guidance, "--eta": eta}
    given = [name for name, value in options.items() if value is not None]
    if given and not loop:
        raise InvalidArgument(f"{given[0]} has a meaning only with --loop")
    if dynamic_size and loop:
        raise InvalidArgument("--dynamic-size has a meaning only without --loop")
    console = Console()
    network, schedule = describe(model)
    out.parent.mkdir(parents=True, exist_ok=True)
    with console.status("exporting"):
        if loop:
            chosen = get_solver(solver or "ddim", **({} if eta is None else {"eta": eta}))
            table = chosen.table(schedule, steps=50 if steps is None else steps).pack()
            scale = 1.0 if guidance is None else guidance
            export_sampler(network, table, out, guidance_scale=scale, schedule=schedule)
        else:
            export_onnx(network, out, schedule=schedule, dynamic_size=dynamic_size)
    typer.echo(_summary(out, network.sample_shape))


def _summary(path: Path, sample_shape: SampleShape) -> str:
    """Return what was written, the names in it, and three lines that run it."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    inputs, outputs = session.get_inputs(), session.get_outputs()
    data = path.with_name(f"{path.name}.data")
    files = [path, data] if data.exists() else [path]
    size = sum(file.stat().st_size for file in files) / 1e6
    lines = [f"wrote {' and '.join(map(str, files))}, {size:.1f} MB"]
    for kind, tensors in (("input", inputs), ("output", outputs)):
        for tensor in tensors:
            shape = ", ".join(map(str, tensor.shape))
            lines.append(f"  {kind:6}  {tensor.name}  {tensor.type[7:-1]} ({shape})")
    feed = ", ".join(
        f'"{tensor.name}": {_example(tensor.type, tensor.shape, sample_shape)}' for tensor in inputs
    )
    lines += [
        "run it with",
        "  import numpy as np, onnxruntime",
        f"  session = onnxruntime.InferenceSession({str(path)!r})",
        f"  {outputs[0].name} = session.run(None, {{{feed}}})[0]",
    ]
    return "\n".join(lines)


def _example(kind: str, shape: list[int | str], sample_shape: SampleShape) -> str:
    """Return an expression for two rows of an input; an open size is that of `sample_shape`."""
    dtype = {"tensor(float)": "float32", "tensor(double)": "float64"}.get(kind, kind[7:-1])
    sizes = [2, *shape[1:]]
    sizes = [sample_shape[i - 1] if isinstance(n, str) else n for i, n in enumerate(sizes)]
    if len(sizes) == 1 and dtype == "int64":
        return 'np.array([0, 1], "int64")'
    return f'np.zeros({tuple(sizes)}, "{dtype}")'
