"""The tables of docs/performance.md: ``make performance``.

One interleaved run for each model, fastdiff's automatic choice beside all peers. Models can be
named, to renew their sections alone.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.console import Console

from benchmarks.marks import replace_figures
from fastdiff.bench import BASELINE, Comparison, Result, describe_run, run
from fastdiff.bench.results import HEADINGS, cells, ordered
from fastdiff.bench.timing import ratio
from fastdiff.compiling.certificate import LIMITS

#: Steps of a sample, and rounds: few where a step takes long, since every step costs the same.
STEPS = {"digits": 20, "ddpm-cifar10": 4, "dit-s2": 4}
ROUNDS = {"digits": 9, "ddpm-cifar10": 3, "dit-s2": 3}
BATCHES = (1, 4, 16)


def plan(model: str) -> Comparison:
    """Return what is compared: also both fixed precisions where the processor has bfloat16."""
    has_bfloat16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    precisions = ("auto", "float32", "bfloat16") if has_bfloat16 else ("auto",)
    return Comparison(
        precisions=precisions, batches=BATCHES, steps=STEPS[model], rounds=ROUNDS[model]
    )


def section(results: list[Result]) -> Iterator[str]:
    """Yield one model's Markdown: every contender, and fastdiff against the best peer."""
    machine = describe_run()
    packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items() if v)
    yield f"{machine['description']}. {packages}. {datetime.date.today()}."
    first = results[0]
    rounds = max(len(result.turn_seconds) for result in results)
    yield f"{first.solver} in {first.steps} steps, {rounds} rounds."
    yield ""
    yield "| " + " | ".join(HEADINGS) + " |"
    yield "| ---: | --- | --- |" + " ---: |" * (len(HEADINGS) - 3)
    for result in ordered(results):
        texts = cells(result)
        if not result.peer and result.refused is None:
            texts[1] = f"**{texts[1]}**"
        yield "| " + " | ".join(texts) + " |"
    yield ""
    headings = (
        "automatic choice",
        "best peer of its precision",
        "times that peer",
        f"times {BASELINE.name}",
    )
    yield "| batch | " + " | ".join(headings) + " |"
    yield "| ---: | --- | --- | ---: | ---: |"
    for batch in BATCHES:
        yield verdict([r for r in results if r.batch == batch and r.refused is None])


def verdict(results: list[Result]) -> str:
    """Compare the automatic choice with the fastest peer whose error is of its class or better."""
    ours = next(r for r in results if not r.peer and r.contender == "fastdiff auto")
    allowed = max(LIMITS[ours.precision].state, ours.error or 0.0)
    peers = [r for r in results if r.peer and r.error is not None and r.error <= allowed]
    best = max(peers, key=lambda r: r.steps_per_second or 0.0)
    baseline = next(r for r in results if r.contender == BASELINE.name)
    against = [
        f"{ratio(list(r.turn_seconds), list(ours.turn_seconds)):.2f}" for r in (best, baseline)
    ]
    chosen, peer = (f"{r.backend} {r.precision}" for r in (ours, best))
    return f"| {ours.batch} | {chosen} | {peer} | {against[0]} | {against[1]} |"


def marks(model: str) -> tuple[str, str]:
    """Return what stands before and after a model's figures."""
    return f"<!-- figures: {model} -->\n", f"<!-- /figures: {model} -->"


def main() -> None:
    """Print the sections, and put them between their marks in a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.performance", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(STEPS), help=", ".join(STEPS))
    parser.add_argument("--write", type=Path, help="a Markdown file with marks for each model")
    options = parser.parse_args()
    for model in options.models:
        with Console(stderr=True).status("starting") as status:
            results = run(model, plan(model), status.update)
        text = "\n".join(section(results)) + "\n"
        print(text, flush=True)
        if options.write:
            replace_figures(options.write, *marks(model), text)


if __name__ == "__main__":
    main()
