"""``fastdiff inspect``: what the native backend makes of a model, and where its time goes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from fastdiff.cli.terminal import make_console, show_table, tell_progress
from fastdiff.errors import InvalidArgument

if TYPE_CHECKING:
    from fastdiff.backends.native import NativeDenoiser, Replay
    from fastdiff.networks import Network

_MIB = 2.0**20
_TEXTS = ("kind", "name", "shape", "with")


def inspect(
    model: Annotated[
        str,
        typer.Argument(
            help="A name, such as `digits`, a folder in the diffusers layout, or an ONNX file."
        ),
    ],
    batch: Annotated[int, typer.Option(help="Images at a time.")] = 1,
    profile: Annotated[
        bool, typer.Option("--profile", help="Run it, and add the time and rate of every node.")
    ] = False,
    precision: Annotated[
        str, typer.Option(help="float32, int8; bfloat16 on CPUs with AMX or AVX-512 BF16.")
    ] = "float32",
) -> None:
    """Show what the native CPU backend makes of a model: kernel calls, algorithms and memory.

    A line is a kernel call: its shapes are those of one image, "with" is what the kernel does
    besides what its kind says. How a convolution runs (direct, winograd2, winograd4, tiles,
    int8), and in bfloat16 attention (direct, tiles), was measured on this machine, just now; the
    input of tiles is "rounded ahead" where the call before writes it as they read it. MFLOP
    count multiplications and additions as the definition has them, so Winograd's algorithms can
    do more of them in a second than the processor has.

    A model that the backend cannot run is refused with the operator that has no kernel, and the
    module where it stands.

    Example: fastdiff inspect digits --batch 4 --profile
    """
    from dataclasses import replace

    import torch

    from fastdiff.backends import reference_denoiser
    from fastdiff.backends.native import NATIVE
    from fastdiff.compiler import describe
    from fastdiff.compiling.calibration import with_samples
    from fastdiff.compiling.compiled import Workspace
    from fastdiff.exporting import export_onnx

    if batch < 1:
        raise InvalidArgument(f"--batch: expected at least 1, got {batch}")
    if precision not in NATIVE.precisions:
        raise InvalidArgument(
            f"--precision: expected one of {', '.join(NATIVE.precisions)}, got {precision!r}"
        )
    with tell_progress() as say:
        say(f"planning {model}, and measuring its kernels")
        network, schedule = describe(model)
        if network.file is not None:
            folder = Workspace()
            network = replace(network, onnx=export_onnx(network, folder.path / "model.onnx"))
        if precision == "int8":
            network = with_samples(network, reference_denoiser(network), schedule)
        denoiser = NATIVE.build(network, precision)
        replay = evaluated(denoiser, network, batch)
        seconds = replay.profile(torch.get_num_threads()) if profile else None
    _show(denoiser, batch, replay.scratch.nbytes, seconds)


def evaluated(denoiser: NativeDenoiser, network: Network, batch: int) -> Replay:
    """Return the calls for `batch` images, which have run once, on the network's example."""
    import torch

    from fastdiff.native import OUTPUT

    x, t, conditioning = network.example(batch)
    out = torch.empty(batch, denoiser.output_channels, *x.shape[2:])
    denoiser.bind(x, t, conditioning, out)()
    tensors = {"x": x, "t": t, **conditioning, OUTPUT: out}
    return denoiser.replay({name: tensor.shape for name, tensor in tensors.items()})


def _show(
    denoiser: NativeDenoiser, batch: int, scratch: int, seconds: dict[str, float] | None
) -> None:
    """Print the listing, the totals and the memory."""
    import torch

    from fastdiff.native.describing import node_rows, total_by_kind, total_rows
    from fastdiff.native.planning.rounding import rounded_ahead

    packed = denoiser.packed
    plan = packed.plan
    algorithms = {name: choice.algorithm for name, choice in packed.choices.items()}
    ahead = rounded_ahead(plan, packed.choices)
    totals = total_by_kind(plan.nodes, seconds, algorithms, batch)
    weights = sum(array.nbytes for array in packed.weights.values())
    arena, live = (4 * batch * floats for floats in (plan.arena_floats, plan.live_floats))
    console = make_console()
    for rows in (node_rows(plan.nodes, seconds, algorithms, batch, ahead), total_rows(totals)):
        show_table(console, _table(rows))
        typer.echo()
    typer.echo(
        f"native {denoiser.precision}, {packed.level} kernels, {torch.get_num_threads()} threads, "
        f"batch {batch}\n"
        f"weights {weights / _MIB:.2f} MiB as these kernels read them\n"
        f"arena {arena / _MIB:.2f} MiB, of which {live / _MIB:.2f} are in use at once; "
        f"scratch {scratch / _MIB:.2f} MiB"
    )


def _table(rows: list[list[str]]) -> Table:
    """Return bare columns, two spaces apart."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in rows[0]:
        table.add_column(heading, justify="left" if heading in _TEXTS else "right")
    for row in rows[1:]:
        table.add_row(*row)
    return table
