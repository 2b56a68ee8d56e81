"""Everything that only a GPU can tell, in one command: ``make gpu-check``.

The essential first: every kernel's first use, digits end to end without and with CUDA graphs, the
kernels beside a copy and beside torch's own attention, the tests that need a GPU; then whole
samples beside diffusers, the kernels under compute-sanitizer, and what is slow to start. Each part
runs in a process of its own, so that one that hangs or loses the device costs itself alone, and all
of them end within ``--budget`` seconds; ``BUDGET=1800 make gpu-check`` gives more.

Findings are appended to gpu-report.jsonl as they come, and gpu-report.md is written anew after each
part; please attach both to a report. The exit code is 1 if anything is wrong, or if a part that
tells right from wrong did not end.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_parts import PARTS
from fastdiff.bench import describe_run
from fastdiff.bench.results import HEADINGS
from fastdiff.kernels.first_use import describe_device
from fastdiff.kernels.gpu_kernels import KERNELS, LANGUAGES

LEAST_SECONDS = 10
"""What a process needs to start; with less left, nothing is begun."""


@dataclass(frozen=True)
class Part:
    """A process of the report.

    Attributes
    ----------
    name : str
        One of `PARTS`.
    arguments : tuple of str
        What it is given beside the device.
    seconds : float
        When it is stopped.
    decides : bool
        Whether it tells right from wrong, so that it must end.
    """

    name: str
    arguments: tuple[str, ...] = ()
    seconds: float = 60
    decides: bool = False

    def __str__(self) -> str:
        return " ".join([self.name, *self.arguments])


def plan() -> list[Part]:
    """Return the parts of a report, the essential first."""
    kernels = [f"{operator}.{language}" for language in LANGUAGES for operator in KERNELS]
    return [
        *(Part("first_uses", (kernel,), 75, decides=True) for kernel in kernels),
        *(Part("digits", (precision,), 120, decides=True) for precision in ("float16", "float32")),
        Part("kernels"),
        Part("attention"),
        Part("tests", (), 150, decides=True),
        Part("samples", ("digits", "1", "diffusers"), 90),
        Part("samples", ("dit-s2", "1", "diffusers"), 90),
        *(Part("sanitizer", (check, "cuda")) for check in ("memcheck", "racecheck")),
        Part("samples", ("ddpm-cifar10", "1", "diffusers"), 120),
        Part("samples", ("digits", "0"), 60),
        Part("samples", ("dit-s2", "0"), 60),
        *(Part("sanitizer", (check, "cuda")) for check in ("initcheck", "synccheck")),
        Part("sanitizer", ("memcheck", "triton"), 300),
        Part("samples", ("dit-s2", "1", "torch.compile", "onnxruntime"), 600),
    ]


def run_plan(parts: Sequence[Part], device: str, budget: float, out: Path) -> int:
    """Run the parts within the budget; return the exit code."""
    deadline = time.monotonic() + budget
    where = torch.device(device)
    machine = {"part": "machine", "device": describe_device(where), **describe_run()}
    out.write_text(json.dumps(machine) + "\n")
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as cache:
        for part in parts:
            left = deadline - time.monotonic()
            begin = time.monotonic()
            if left < LEAST_SECONDS:
                end = {"code": None, "left_out": True}
            else:
                end = _run(part, device, min(part.seconds, left), out, Path(cache))
            end |= {"decides": part.decides, "seconds": round(time.monotonic() - begin, 1)}
            append(out, {"part": str(part), "ended": end})
            print(f"{part}: {ending(end)}", flush=True)
            out.with_suffix(".md").write_text("\n".join(markdown(read(out))) + "\n")
    findings = read(out)
    print("\n".join(markdown(findings)))
    return int(any(True for _ in failures(findings)))


def command(part: Part, device: str, out: Path) -> list[str]:
    """Return what runs a part in a process of its own."""
    own = [sys.executable, "-m", "benchmarks.gpu", "--device", device, "--out", str(out)]
    return [*own, "--part", part.name, *part.arguments]


def _run(part: Part, device: str, seconds: float, out: Path, cache: Path) -> dict[str, Any]:
    """Run a part, and stop it with all its children when its time is spent."""
    with (cache / "log").open("w+") as log:
        process = subprocess.Popen(
            command(part, device, out),
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"FASTDIFF_CACHE": str(cache)},  # no verdict of an earlier run
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.seek(0)
        return {"code": code, "output": "" if code == 0 else log.read()[-2000:]}


def run_part(name: str, arguments: Sequence[str], device: str, out: Path | None) -> int:
    """Run a part in this process; print its findings and append them to `out`."""
    wrong = False
    for found in PARTS[name](torch.device(device), *arguments):
        wrong |= "wrong" in found
        print(json.dumps(found), flush=True)
        if out is not None:
            append(out, {"part": " ".join([name, *arguments]), "found": found})
    return int(wrong)


def append(out: Path, line: dict[str, Any]) -> None:
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()]


def failures(lines: Iterable[dict[str, Any]]) -> Iterator[str]:
    """Yield what makes the exit code 1."""
    for line in lines:
        if "wrong" in line.get("found", {}):
            yield f"{line['part']}: {line['found']['wrong']}"
        if "ended" in line:
            end = line["ended"]
            unfinished = end["decides"] and end["code"] is None
            if end["code"] or unfinished:
                yield f"{line['part']}: {ending(end)}"


def ending(end: dict[str, Any]) -> str:
    """Say how a part ended."""
    if end.get("left_out"):
        return "left out, the budget is spent"
    if end["code"] is None:
        return f"stopped after {end['seconds']:.0f} s"
    return f"ended after {end['seconds']:.0f} s" + (f", code {end['code']}" * bool(end["code"]))


TABLES = {
    "first_uses": (
        ("kernel", "language", "first use"),
        lambda f: (f["operator"], f["language"], f.get("wrong") or f.get("missing") or "right"),
    ),
    "digits": (
        ("precision", "graphs", "solver", "s", "relative L2", "bits of without graphs", "state"),
        lambda f: (
            f["precision"], f["graphs"], f["solver"], f"{f['seconds']:.3f}",
            f"{f['relative_l2']:.1e}", f.get("bits_of_without_graphs", ""), f.get("wrong", "right"),
        ),
    ),
    "kernels": (
        ("kernel", "GB/s", "copy, GB/s"),
        lambda f: (
            f["kernel"],
            *(f"{f[of]:.0f}" for of in ("gigabytes_per_second", "copy_gigabytes_per_second")),
        ),
    ),
    "attention": (
        ("head size", "TFLOP/s"),
        lambda f: (
            f["head_size"], ", ".join(f"{name} {rate:.1f}" for name, rate in f["tflops"].items())
        ),
    ),
    "tests": (("tests", "state"), lambda f: (f["summary"], f.get("wrong", "right"))),
    "sanitizer": (
        ("check", "language", "state"),
        lambda f: (f["check"], f["language"], f.get("wrong") or f.get("missing") or "right"),
    ),
    "samples": (("graphs", *HEADINGS), lambda f: (f["graphs"], *f["cells"])),
}  # fmt: skip
"""By part: the headings of its table, and the cells of a finding."""


def markdown(lines: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield the report as Markdown, of as much as there is."""
    machine = lines[0]
    yield f"# fastdiff on {machine['device']}"
    yield ""
    yield f"{machine['description']}, torch {machine['packages']['torch']}."
    wrong = list(failures(lines))
    yield ""
    yield "Wrong:" if wrong else "Nothing is wrong."
    yield ""
    yield from (f"- {failure}" for failure in wrong)
    for name, (headings, cells_of) in TABLES.items():
        of_part = [line for line in lines if line["part"].split()[0] == name]
        found = [line["found"] for line in of_part if "found" in line]
        if found:
            yield ""
            yield "| " + " | ".join(headings) + " |"
            yield "|" + " --- |" * len(headings)
            for one in found:
                yield "| " + " | ".join(str(c).replace("|", r"\|") for c in cells_of(one)) + " |"
    yield ""
    yield from (f"- {line['part']}: {ending(line['ended'])}" for line in lines if "ended" in line)


def main() -> None:
    """Run everything, or one part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, help="gpu-report.jsonl if nothing is said")
    parser.add_argument("--budget", type=float, default=600, help="seconds for everything")
    parser.add_argument("--device", default="cuda", help="cpu: a dry run of the same Python")
    parser.add_argument("--part", nargs="+", help=f"one part alone, in this process: {[*PARTS]}")
    parser.add_argument(
        "--first-uses-alone", action="store_const", const=["first_uses"], dest="part"
    )
    options = parser.parse_args()
    if options.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(
            f"gpu-check needs an NVIDIA GPU with its driver and a CUDA build of torch; this is "
            f"torch {torch.__version__} and it finds none"
        )
    if options.part:
        name, *arguments = options.part
        raise SystemExit(run_part(name, arguments, options.device, options.out))
    out = options.out or Path("gpu-report.jsonl")
    raise SystemExit(run_plan(plan(), options.device, options.budget, out))


if __name__ == "__main__":
    main()
