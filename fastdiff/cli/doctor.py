"""``fastdiff doctor``: what runs on this machine, and what would help the rest."""

from __future__ import annotations

import importlib.util
import platform
from typing import Annotated

import typer
from rich.table import Table

from fastdiff.cli.terminal import make_console, show_table


def doctor(
    gpu: Annotated[
        bool,
        typer.Option("--gpu", help="Also check every GPU kernel on the GPU, as first uses do."),
    ] = False,
) -> None:
    """Show which kernels and backends are usable here, and for the others why not."""
    import torch

    import fastdiff
    from fastdiff.backends import backend_status
    from fastdiff.kernels import active_level, cpu_levels, cuda_module, triton_module

    typer.echo(
        f"fastdiff {fastdiff.__version__}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads"
    )
    table = Table()
    for heading in ("part", "usable", "detail"):
        table.add_column(heading)
    active = active_level()
    for name, reason in cpu_levels().items():
        note = reason or ("in use" if name == active else "FASTDIFF_CPU=" + name + " selects it")
        table.add_row(f"CPU kernels, {name}", "yes" if reason is None else "no", note)
    for name, status in backend_status().items():
        table.add_row(f"backend, {name}", "yes" if status.usable else "no", status.detail)
    found = importlib.util.find_spec("diffusers") is not None
    hint = "pip install 'fastdiff-runtime[diffusers]'"
    table.add_row("models, diffusers", "yes" if found else "no", "UNet2DModel" if found else hint)
    for name, reason in (
        ("CUDA kernels", cuda_module.status()),
        ("Triton kernels", triton_module.status()),
    ):
        table.add_row(name, "yes" if reason is None else "no", reason or "checked at first use")
    show_table(make_console(), table)
    if gpu:
        _check_gpu_kernels()


def _check_gpu_kernels() -> None:
    """Run the first-use check of every kernel; exit with 1 unless each operator has a right one."""
    import torch

    from fastdiff.errors import Unavailable
    from fastdiff.kernels.first_use import describe_device
    from fastdiff.kernels.gpu_kernels import KERNELS, LANGUAGES, refusal

    if not torch.cuda.is_available():
        raise Unavailable(
            f"--gpu needs an NVIDIA GPU with its driver and a CUDA build of torch; this is torch "
            f"{torch.__version__} and it finds none"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    typer.echo(describe_device(device))
    failed = False
    for operator in KERNELS:
        reasons = {language: refusal(operator, language, device) for language in LANGUAGES}
        for language, reason in reasons.items():
            state = "right" if reason is None else f"not used: {reason}"
            typer.echo(f"{operator}, {language}: {state}")
        failed |= None not in reasons.values()
    if failed:
        raise typer.Exit(1)
