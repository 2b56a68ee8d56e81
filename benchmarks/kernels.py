"""The kernels against their peers, interleaved in one run: ``python -m benchmarks.kernels``.

Prints a table and, with ``--json PATH``, writes the same figures. A ratio is the median over rounds
of (peer's time / our time) taken next to each other, with its quartiles, so a machine that slows
down in the middle of the run slows both.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from fastdiff import kernels
from fastdiff.bench.timing import Spread, interleave
from fastdiff.kernels.noise import fill_normal
from fastdiff.kernels.step import step
from fastdiff.records import BATCH_ROW, TABLE_ROW

SHAPES = {"latents": (8, 4, 64, 64), "pixels": (16, 3, 256, 256)}
TIMESTEP, STEPS = 500, 50


@dataclass(frozen=True)
class Comparison:
    """Two ways to do one thing, each a call without arguments."""

    name: str
    ours: Callable[[], object]
    peer: Callable[[], object]
    elements: int


@dataclass(frozen=True)
class Figure:
    """Median times and the ratio peer / ours with its quartiles."""

    name: str
    threads: int
    ours_ns_per_element: float
    peer_ns_per_element: float
    ratio: Spread


def ddim_row(scheduler: DDIMScheduler, eta: float) -> np.ndarray[Any, np.dtype[np.void]]:
    """DDIM's step at TIMESTEP as a table row (Song et al. 2021, equation 12); eta = 1 is DDPM's."""
    previous = TIMESTEP - scheduler.config.num_train_timesteps // STEPS
    a, a_next = (float(scheduler.alphas_cumprod[t]) for t in (TIMESTEP, previous))
    sigma = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
    direction = (1 - a_next - sigma**2) ** 0.5 / (1 - a) ** 0.5
    table = np.zeros(1, TABLE_ROW)
    table["p"], table["q"], table["clip"] = a**-0.5, -(((1 - a) / a) ** 0.5), 1
    table["x"][0, [0, 5, 7]] = direction, a_next**0.5 - direction * a**0.5, sigma
    table["c_in_next"] = 1
    return table


def batch_rows(count: int) -> np.ndarray[Any, np.dtype[np.void]]:
    rows = np.zeros(count, BATCH_ROW)
    rows["slot"] = rows["cond"] = rows["image"] = np.arange(count)
    rows["uncond"] = -1
    return rows


def step_comparisons() -> Iterator[Comparison]:
    """Compare the fused step with ``scheduler.step`` of the same solver and timestep."""
    for shape_name, shape in SHAPES.items():
        state, output = torch.randn(shape), torch.randn(shape)
        flat_state, flat_output = state.clone().view(shape[0], -1), output.view(shape[0], -1)
        ddim, ddpm = DDIMScheduler(), DDPMScheduler(clip_sample=True)
        for scheduler in (ddim, ddpm):
            scheduler.set_timesteps(STEPS)
        for solver, scheduler, eta in (("DDIM", ddim, 0.0), ("DDPM", ddpm, 1.0)):
            table, rows = ddim_row(ddim, eta), batch_rows(shape[0])
            yield Comparison(
                f"{solver} {shape_name} / diffusers",
                lambda t=table, r=rows, s=flat_state, o=flat_output: step(
                    table=t, rows=r, state=s, output=o
                ),
                lambda c=scheduler, s=state, o=output: c.step(o, TIMESTEP, s),
                state.numel(),
            )


def bandwidth_comparisons() -> Iterator[Comparison]:
    """Compare the update with a copy of as many bytes; the ratio is the fraction reached."""
    for shape_name, (count, *size) in {**SHAPES, "out of cache": (16, 3, 512, 512)}.items():
        n = int(np.prod(size))
        state, output = torch.randn(count, n), torch.randn(count, n)
        source = torch.randn(count * n * 3 // 2)  # x and m are read and x' is written: 12 bytes
        target = torch.empty_like(source)
        for noise_name, eta in (("without noise", 0.0), ("with noise", 1.0)):
            table, rows = ddim_row(DDIMScheduler(), eta), batch_rows(count)
            yield Comparison(
                f"update {noise_name}, {shape_name} / copy",
                lambda t=table, r=rows, s=state, o=output: step(table=t, rows=r, state=s, output=o),
                lambda a=target, b=source: a.copy_(b),
                state.numel(),
            )


def noise_comparisons() -> Iterator[Comparison]:
    for shape_name, shape in SHAPES.items():
        ours, peer = torch.empty(shape[0], int(np.prod(shape[1:]))), torch.empty(shape)
        seeds, images = [0] * shape[0], list(range(shape[0]))
        yield Comparison(
            f"normals {shape_name} / torch.normal_",
            lambda o=ours, s=seeds, i=images: fill_normal(o, seeds=s, images=i, draw=0, tag=0),
            peer.normal_,
            ours.numel(),
        )


def comparisons() -> Iterator[Comparison]:
    yield from step_comparisons()
    yield from bandwidth_comparisons()
    yield from noise_comparisons()


def measure(comparison: Comparison, rounds: int) -> Figure:
    """Let the two take turns."""
    seconds = interleave({"ours": comparison.ours, "peer": comparison.peer}, rounds)
    ratios = [peer / ours for ours, peer in zip(seconds["ours"], seconds["peer"], strict=True)]
    ours, peer = (statistics.median(seconds[side]) for side in ("ours", "peer"))
    return Figure(
        name=comparison.name,
        threads=torch.get_num_threads(),
        ours_ns_per_element=ours / comparison.elements * 1e9,
        peer_ns_per_element=peer / comparison.elements * 1e9,
        ratio=Spread.of(ratios),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=101)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the figures here too")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    print(f"level {kernels.active_level()}, {options.threads} threads, torch {torch.__version__}")
    print(f"{'ours / peer':44}{'ours':>9}{'peer':>9}   ns an element; ratio (quartiles)")
    figures = []
    for comparison in comparisons():
        figures.append(figure := measure(comparison, options.rounds))
        print(
            f"{figure.name:44}{figure.ours_ns_per_element:9.3f}{figure.peer_ns_per_element:9.3f}"
            f"   {figure.ratio:.2f}"
        )
    if options.json:
        options.json.write_text(json.dumps([asdict(figure) for figure in figures], indent=2))


if __name__ == "__main__":
    main()
