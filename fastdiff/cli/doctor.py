"""``fastdiff doctor``: what runs on this machine, and what would help the rest."""

from __future__ import annotations

import importlib.util
import platform

from rich.console import Console
from rich.markup import escape
from rich.table import Table


def doctor() -> None:
    """Show which kernels and engines are usable here, and for the others why not."""
    import torch

    import fastdiff
    from fastdiff.denoisers import engine_status
    from fastdiff.kernels import active_level, cpu_levels

    console = Console()
    console.print(
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
    for name, status in engine_status().items():
        table.add_row(f"engine, {name}", "yes" if status.usable else "no", status.detail)
    found = importlib.util.find_spec("diffusers") is not None
    hint = "pip install 'fastdiff-runtime[diffusers]'"
    table.add_row(
        "models, diffusers", "yes" if found else "no", "UNet2DModel" if found else escape(hint)
    )
    table.add_row("CUDA kernels", "no", "not part of this version")
    console.print(table)
