"""Every figure of README.md in one run: ``python -m benchmarks [--write README.md]``."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.kernels import SHAPES, comparisons, measure
from benchmarks.marks import replace_figures
from benchmarks.sampling import overhead, pipelines
from fastdiff.compiling.machine import describe_machine

BEGIN, END = "<!-- figures: make bench -->", "<!-- /figures -->"


def lines(rounds: int, say: Console) -> Iterator[str]:
    """Measure everything and yield the Markdown table."""
    import diffusers

    sizes = ", ".join(f"{name}: {' x '.join(map(str, size))}" for name, size in SHAPES.items())
    yield (
        f"{describe_machine()}, torch {torch.__version__}, diffusers {diffusers.__version__}. "
        f"Ratios: median (quartiles). {sizes}."
    )
    yield ""
    yield (
        "| digits, 50 DDIM steps, beside `DDIMPipeline` | fastdiff ran on | fastdiff "
        "| diffusers float32 | ratio |"
    )
    yield "| --- | --- | --- | --- | --- |"
    say.print("whole samples ...")
    difference = 0.0
    for row in pipelines():
        difference = max(difference, row["difference"])
        yield (
            f"| batch {row['batch']} | {row['ran_on']} | {row['fastdiff_ms']:.0f} ms "
            f"| {row['diffusers_ms']:.0f} ms | **{row['ratio']:.1f}** |"
        )
    yield ""
    yield (
        "Same weights and latents: at the precisions of this table the images differ by at most "
        f"{difference:.0e} of [-1, 1]."
    )
    yield ""
    yield "| kernel against its peer, both float32, ns per element | fastdiff | peer | ratio |"
    yield "| --- | --- | --- | --- |"
    for comparison in comparisons():
        say.print(f"{comparison.name} ...")
        figure = measure(comparison, rounds)
        yield (
            f"| {figure.name} | {figure.ours_ns_per_element:.2f} "
            f"| {figure.peer_ns_per_element:.2f} | **{figure.ratio:.2f}** |"
        )
    yield ""
    yield "| engine per step, beyond denoiser and step kernel | microseconds |"
    yield "| --- | --- |"
    say.print("engine overhead ...")
    for row in overhead():
        shape = " x ".join(map(str, row["shape"]))
        guided = ", guided" if row["guidance"] != 1 else ""
        yield f"| batch {row['batch']} of {shape}{guided} | {row['us']:.0f} |"


def main() -> None:
    """Print the table, and put it between its marks in a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=61, help="rounds of each kernel comparison")
    parser.add_argument("--write", type=Path, help="a Markdown file with marks for the table")
    options = parser.parse_args()
    table = "\n".join(lines(options.rounds, Console(stderr=True)))
    print(table)
    if options.write:
        replace_figures(options.write, BEGIN, END, f"\n{table}\n")


if __name__ == "__main__":
    main()
