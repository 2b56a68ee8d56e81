"""The native backend beside the others: ``python -m benchmarks.native [MODEL...] [--write FILE]``.

One evaluation of a network is what is timed, without a sampler around it. Every backend has a
process of its own, and they take turns, so that what else the machine did met all alike. A second
table tells where native's time goes, and how near to the processor's peak its kernels come.

Where memory does not hold all backends at once, ``--apart`` measures one after the other:

    python -m benchmarks.native sd15-unet --apart --batch 2 --calls 1 --precisions float32
"""

from __future__ import annotations

import argparse
import datetime
import multiprocessing
import resource
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from benchmarks.marks import replace_figures
from benchmarks.peak import Peak
from fastdiff.backends import Denoiser, get_backend, reference_denoiser
from fastdiff.backends.native import NativeDenoiser
from fastdiff.bench import describe_run
from fastdiff.bench.timing import Spread, ratio
from fastdiff.cli.inspect import evaluated
from fastdiff.compiler import describe
from fastdiff.compiling.calibration import with_samples
from fastdiff.compiling.compiled import give_back_memory
from fastdiff.errors import FastdiffError
from fastdiff.exporting import export_onnx
from fastdiff.native.describing import Total, total_by_kind
from fastdiff.networks import Network
from fastdiff.sampling import Schedule

MODELS = ("digits", "ddpm-cifar10", "dit-s2")
CASES = (  # the first is what the others are compared with
    ("native", "float32"),
    ("native", "bfloat16"),
    ("native", "int8"),
    ("onnxruntime", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("eager", "float32"),
)
_PAUSE_SECONDS = 0.05  # between turns: threads of the last backend still spin for a while
_MIB = 2**20


@dataclass(frozen=True)
class Ready:
    """A backend that is ready for a batch size.

    Attributes
    ----------
    error : float
        Relative L2 distance of its output to that of the float32 module in eager torch.
    build_seconds : float
    memory_bytes : int
        What its process has resident beyond the module and the libraries; 0 where that is not told.
    """

    error: float
    build_seconds: float
    memory_bytes: int


class Subject:
    """One backend; lives in the process that is its own."""

    def __init__(self, model: str, backend: str, precision: str, onnx: Path) -> None:
        warnings.simplefilter("ignore")  # of exporters, about what they do
        self.network, schedule = _described(model, onnx)
        if precision == "int8":
            plain = reference_denoiser(self.network)
            self.network = with_samples(self.network, plain, schedule)
            del plain
        get_backend(backend).build(self.network, precision)  # imports what it needs
        give_back_memory()
        self._resident_before = _resident_bytes()
        begin = time.perf_counter()
        self.denoiser: Denoiser = get_backend(backend).build(self.network, precision)
        self._build_seconds = time.perf_counter() - begin
        self._call: Callable[[], object]

    def prepare(self, batch: int) -> Ready:
        """Bind a call for `batch` images, make it once, and compare its output."""
        x, t, conditioning = self.network.example(batch)
        out = torch.full((batch, self.denoiser.output_channels, *x.shape[2:]), torch.nan)
        self._call = self.denoiser.bind(x, t, conditioning, out)
        self._call()
        with torch.inference_mode():
            want: Tensor = self.network.require_module()(x, t, **conditioning)
        error = ((out - want).norm() / want.norm()).item()
        del want
        give_back_memory()
        return Ready(error, self._build_seconds, _resident_bytes() - self._resident_before)

    def turn(self, calls: int) -> float:
        """Return the median seconds of some calls, the caches being its own."""
        self._call()
        seconds = []
        for _ in range(calls):
            begin = time.perf_counter()
            self._call()
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds)

    def profile(self, batch: int) -> list[Total]:
        """Return native's time by kinds of nodes."""
        assert isinstance(self.denoiser, NativeDenoiser)
        packed = self.denoiser.packed
        replay = evaluated(self.denoiser, self.network, batch)
        seconds = replay.profile(torch.get_num_threads())
        algorithms = {name: choice.algorithm for name, choice in packed.choices.items()}
        return total_by_kind(packed.plan.nodes, seconds, algorithms, batch)


def _described(model: str, onnx: Path) -> tuple[Network, Schedule]:
    """Return the network whose export is, or will be, at `onnx`: the same weights each time."""
    torch.manual_seed(0)
    network, schedule = describe(model)
    return replace(network, onnx=onnx if onnx.exists() else None), schedule


def _resident_bytes() -> int:
    """Return what the process has in memory; 0 where the system does not tell."""
    path = Path("/proc/self/statm")
    pages = int(path.read_text().split()[1]) if path.exists() else 0
    return pages * resource.getpagesize()


_subject: Subject  # of this process


def _open(*arguments: Any) -> None:
    global _subject
    _subject = Subject(*arguments)


def _ask(method: str, *arguments: Any) -> Any:
    return getattr(_subject, method)(*arguments)


@dataclass(frozen=True)
class Options:
    """What is measured, and how often.

    Attributes
    ----------
    batches : sequence of int
    rounds, calls : int
        Turns of each backend at a batch size, and calls of a turn.
    cases : sequence of (backend, precision)
        The first is what the others are compared with.
    apart : bool
        A backend is there only while it is measured.
    """

    batches: Sequence[int]
    rounds: int
    calls: int
    cases: Sequence[tuple[str, str]]
    apart: bool


@dataclass
class Measured:
    """A backend at one batch size."""

    name: str
    ready: Ready
    seconds: list[float] = field(default_factory=list)


@dataclass
class Case:
    """A backend in its process."""

    name: str
    process: ProcessPoolExecutor

    def ask(self, method: str, *arguments: Any) -> Any:
        """Call a method of the `Subject` there."""
        return self.process.submit(_ask, method, *arguments).result()


def open_cases(
    model: str, names: Sequence[tuple[str, str]], folder: Path, stack: ExitStack, say: Console
) -> Iterator[Case | str]:
    """Start a process for each backend and yield it, or why it does not take part."""
    onnx = folder / "denoiser.onnx"
    say.print(f"{model}: exporting")
    export_onnx(_described(model, onnx)[0], onnx)
    for backend, precision in names:
        name = f"{backend} {precision}"
        say.print(f"{model}: building {name}")
        spawn = multiprocessing.get_context("spawn")
        process = stack.enter_context(ProcessPoolExecutor(1, mp_context=spawn))
        try:
            process.submit(_open, model, backend, precision, onnx).result()
            yield Case(name, process)
        except FastdiffError as error:
            process.shutdown()
            yield f"{name}: {error}"


def take_turns(
    cases: Sequence[Case], batch: int, options: Options, peak: Peak
) -> Iterator[Measured]:
    """Time all cases at one batch size, and what the processor can do, in turn."""
    results = [Measured(case.name, case.ask("prepare", batch)) for case in cases]
    turns = list(zip(cases, results, strict=True))
    for done in range(options.rounds):
        peak.measure()
        first = done % len(turns)  # so that nobody always follows the same one
        for case, result in [*turns[first:], *turns[:first]]:
            time.sleep(_PAUSE_SECONDS)
            result.seconds.append(case.ask("turn", options.calls))
    yield from results


def section(model: str, options: Options, say: Console) -> Iterator[str]:
    """Measure one model and yield its Markdown."""
    peak = Peak(torch.get_num_threads())
    machine = describe_run()
    packages = ", ".join(f"{k} {v}" for k, v in machine["packages"].items() if v)
    yield f"{machine['description']}. {packages}. {datetime.date.today()}."
    one = "one after the other" if options.apart else "in turn"
    yield f"{options.rounds} rounds of {options.calls} calls, {one}."
    yield ""
    measured: dict[int, list[Measured]] = {batch: [] for batch in options.batches}
    profiles: dict[int, list[Total]] = {}
    refusals = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fastdiff-")))
        opened = open_cases(model, options.cases, folder, stack, say)
        for group in ([each] for each in opened) if options.apart else [list(opened)]:
            cases = [case for case in group if isinstance(case, Case)]
            refusals += [found for found in group if isinstance(found, str)]
            for batch in options.batches if cases else ():
                say.print(f"{model}: batch {batch}")
                measured[batch] += take_turns(cases, batch, options, peak)
                time.sleep(_PAUSE_SECONDS)
                if batch not in profiles and cases[0].name.startswith("native"):
                    profiles[batch] = cases[0].ask("profile", batch)
                peak.measure()
            if options.apart:
                for case in cases:
                    case.process.shutdown()
    headings = ("backend", "ms", "its time / native's", "error", "built in s", "MiB")
    yield "| batch | " + " | ".join(headings) + " |"
    yield "| ---: | --- |" + " ---: |" * (len(headings) - 1)
    for batch, results in measured.items():
        yield from (f"| {batch} | {' | '.join(cells(result, results[0]))} |" for result in results)
    yield ""
    yield from (f"Not here: {reason}.\n" for reason in refusals)
    if not profiles:
        return
    yield (
        f"Where the time of {results[0].name} goes. The peak of {peak.threads} threads is "
        f"{peak.flops / 1e9:.0f} GFLOP/s, the best that was seen meanwhile (`benchmarks/peak.py`)."
    )
    yield ""
    yield from profile_table(profiles, peak.flops)


def cells(case: Measured, base: Measured) -> list[str]:
    """Return the figures of a backend at one batch size."""
    return [
        case.name,
        f"{Spread.of([1e3 * s for s in case.seconds]):.2f}",
        f"{ratio(case.seconds, base.seconds):.2f}" if case is not base else "1",
        f"{case.ready.error:.1e}",
        f"{case.ready.build_seconds:.1f}",
        f"{case.ready.memory_bytes / _MIB:.0f}",
    ]


def profile_table(profiles: Mapping[int, Sequence[Total]], peak: float) -> Iterator[str]:
    """Yield the time and rate of each kind of node, by batch size."""
    headings = ("nodes", "GFLOP", "ms", "share", "GFLOP/s", "of the peak")
    yield "| batch | kind | " + " | ".join(headings) + " |"
    yield "| ---: | --- |" + " ---: |" * len(headings)
    for batch, totals in profiles.items():
        seconds = sum(total.seconds for total in totals)
        everything = Total(
            "all", sum(t.nodes for t in totals), sum(t.flops for t in totals), seconds
        )
        for total in (*totals, everything):
            rate = total.flops / max(total.seconds, 1e-9)
            texts = [
                total.kind,
                str(total.nodes),
                f"{total.flops / 1e9:.3f}" if total.flops else "",
                f"{1e3 * total.seconds:.3f}",
                f"{total.seconds / seconds:.1%}",
                f"{rate / 1e9:.1f}" if total.flops else "",
                f"{rate / peak:.0%}" if total.flops else "",
            ]
            yield f"| {batch} | {' | '.join(texts)} |"


def main() -> None:
    """Print the sections, and put them between their marks in a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.native", description=__doc__)
    parser.add_argument("models", nargs="*", default=list(MODELS), help=", ".join(MODELS))
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4], help="images at a time")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each backend")
    parser.add_argument("--calls", type=int, default=5, help="calls of a turn")
    precisions = sorted({precision for _, precision in CASES})
    parser.add_argument("--precisions", nargs="+", default=precisions, choices=precisions)
    parser.add_argument("--apart", action="store_true", help="one backend after the other")
    parser.add_argument("--write", type=Path, help="a Markdown file with marks for each model")
    given = parser.parse_args()
    cases = [case for case in CASES if case[1] in given.precisions]
    options = Options(given.batch, given.rounds, given.calls, cases, given.apart)
    for model in given.models:
        text = "\n".join(section(model, options, Console(stderr=True))) + "\n"
        print(text, flush=True)
        if given.write:
            begin, end = f"<!-- figures: {model} -->\n", f"<!-- /figures: {model} -->"
            replace_figures(given.write, begin, end, text)


if __name__ == "__main__":
    main()
