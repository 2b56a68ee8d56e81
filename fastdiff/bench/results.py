"""What a benchmark run found, as a table and as JSON."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from fastdiff.bench.timing import Spread
from fastdiff.compiling.machine import describe_machine

_PACKAGES = ("fastdiff-runtime", "torch", "diffusers", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Result:
    """One contender at one load; without times when it was refused.

    Attributes
    ----------
    model, solver : str
    steps, batch : int
        What one turn samples.
    contender : str
        Its name; `peer` says whether it is another library.
    backend, precision : str
        What it ran on.
    steps_per_second : float
        Steps of the whole batch.
    images_per_second : float
    p50_ms, p95_ms : float
        Time of a step.
    peak_memory_bytes : int or None
        Largest resident size of its process while it sampled.
    error : float or None
        Relative L2 distance of its sample to that of diffusers in float32, or, in a run without
        peers, its certificate's; None where noise is drawn differently.
    ratio : Spread or None
        How many times faster than diffusers in float32, round by round.
    turn_seconds : tuple of float
        Each round's sample, so that any two contenders can be compared round by round.
    refused : str or None
        Why it did not run.
    """

    model: str
    solver: str
    steps: int
    batch: int
    contender: str
    peer: bool
    backend: str
    precision: str
    steps_per_second: float | None = None
    images_per_second: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    peak_memory_bytes: int | None = None
    error: float | None = None
    ratio: Spread | None = None
    turn_seconds: tuple[float, ...] = ()
    refused: str | None = None


def describe_run() -> dict[str, Any]:
    """Return the machine and the versions that figures belong to."""
    return {
        "description": describe_machine(),
        "system": platform.platform(terse=True),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def to_json(results: Iterable[Result], machine: dict[str, Any]) -> dict[str, Any]:
    """Return ``{"machine": ..., "results": [...]}`` of plain values."""
    return {"machine": machine, "results": [asdict(result) for result in results]}


def cells(result: Result) -> list[str]:
    """Return a result as the texts of a table's row."""
    if result.refused is not None:
        return [str(result.batch), result.contender, "", "", "", "", "", "", "", result.refused]
    memory = result.peak_memory_bytes
    return [
        str(result.batch),
        result.contender,
        f"{result.backend} {result.precision}",
        f"{result.steps_per_second:.1f}",
        f"{result.images_per_second:.2f}",
        f"{result.p50_ms:.2f}",
        f"{result.p95_ms:.2f}",
        f"{memory / 1e6:.0f}" if memory else "",
        f"{result.error:.1e}" if result.error is not None else "",
        f"{result.ratio:.2f}" if result.ratio else "",
    ]


HEADINGS = (
    "batch",
    "contender",
    "ran on",
    "steps/s",
    "images/s",
    "p50 ms",
    "p95 ms",
    "MB",
    "error",
    "times diffusers",
)


def to_table(results: list[Result]) -> Table:
    """Return results of one model and solver as a rich table, fastest first at each batch size.

    Those that were refused are below it, with their reasons.
    """
    first = results[0]
    refused = [f"refused {r.contender}: {r.refused}" for r in ordered(results) if r.refused]
    table = Table(
        title=f"{first.model}, {first.solver} in {first.steps} steps",
        caption=Text("\n".join(dict.fromkeys(refused))) if refused else None,
        title_justify="left",
        caption_justify="left",
        box=box.SIMPLE,
        padding=(0, 0, 0, 1),
        pad_edge=False,
    )
    for heading in HEADINGS:
        text = heading in {"contender", "ran on", "times diffusers"}
        table.add_column(heading, justify="left" if text else "right")
    for result in ordered(results):
        if result.refused is None:
            table.add_row(*cells(result))
    return table


def ordered(results: Iterable[Result]) -> list[Result]:
    """Sort by batch size, the fastest first."""
    return sorted(results, key=lambda r: (r.batch, -(r.steps_per_second or 0)))
