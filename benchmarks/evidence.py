"""What is known of the GPU code without a GPU: ``make gpu-evidence`` writes docs/gpu-evidence.md.

Runs the tests that prove it and makes tables of what they found: which parts passed, and what every
compiled kernel uses on every architecture.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from benchmarks.marks import replace_figures

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- figures: evidence -->\n", "<!-- /figures: evidence -->"

PARTS = {
    "the emulator itself: fragment layouts, schedules, misuse": ["tests/cuda_on_cpu"],
    "CUDA step, gather, noise: bits, mutants, sanitizers, binaries": ["tests/kernels/cuda"],
    "Triton step, gather, noise: bits, bounds, binaries, AMD": ["tests/kernels/triton"],
    "attention in Triton and CUDA: error, schedules, mutants, binaries": [
        "tests/kernels/attention"
    ],
    "operators and the check of a first use": [
        "tests/kernels/test_operators.py",
        "tests/kernels/test_first_use.py",
        "tests/kernels/test_gpu_kernels.py",
    ],
    "graph runtime on a recorded device": [
        "tests/engine/test_graph_executor.py",
        "tests/engine/test_graph_delivery.py",
        "tests/engine/test_cuda_device.py",
    ],
}


def prove(log: Path) -> Iterator[tuple[str, Counter[str]]]:
    """Run each part's tests; yield its name with the number of each outcome."""
    for part, paths in PARTS.items():
        with tempfile.TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *paths]
            environment = os.environ | {"FASTDIFF_GPU_EVIDENCE": str(log)}
            subprocess.run(command, cwd=ROOT, env=environment, check=False, stdout=sys.stderr)
            cases = ElementTree.parse(report).getroot().iter("testcase")  # noqa: S314
            yield part, Counter(_outcome(case) for case in cases)


def _outcome(case: Any) -> str:
    kinds = {child.tag for child in case}
    if kinds & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in kinds else "passed"


def binaries(records: list[dict[str, Any]]) -> Iterator[str]:
    """Yield a table: what each kernel uses at most, by architecture."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for record in records:
        found[_label(record), record["arch"]].append(record)
    archs = sorted({arch for _, arch in found}, key=lambda arch: int(arch.removeprefix("sm_")))
    yield "| kernel | " + " | ".join(archs) + " |"
    yield "| --- |" + " --- |" * len(archs)
    for label in dict.fromkeys(name for name, _ in found):
        texts = (_uses(found[label, arch]) if (label, arch) in found else "" for arch in archs)
        yield f"| {label} | " + " | ".join(texts) + " |"


def _label(record: dict[str, Any]) -> str:
    """Return the kernel's name as its test's parameter has it, without the architecture."""
    inside = re.search(r"\[(.*)\]", record["test"])
    name = re.sub(r"-?sm_\d+a?-?", "", inside.group(1)) if inside else record["kernel"]
    room = "attention " if "/attention/" in record["test"] else ""
    language = "" if name.startswith(("cuda", "triton")) else _language(record["function"]) + " "
    kind = re.search(r"(B?Float16)E", record["function"])
    size = re.search(r"ELi(\d+)E", record["function"]) or re.match(r"(\d+)", name)
    if room:
        return f"{language}attention, heads of {size.group(1) if size else name}" + (
            f", {kind.group(1).lower()}" if kind else ""
        )
    return language + name


def _language(function: str) -> str:
    return "cuda" if function.startswith("_Z") else "triton"


def _uses(records: list[dict[str, Any]]) -> str:
    """Return the largest resources of a kernel's functions, in a cell."""
    registers = max(record["registers"] for record in records)
    spills = max(record["spills"] for record in records)
    loads = max(record["wide_loads"] for record in records)
    stores = max(record["wide_stores"] for record in records)
    fused = max(record["ptx_fma"] for record in records)
    tensor = sorted({kind for record in records for kind in record["tensor_core"]})
    parts = [f"{registers} registers", f"{spills} spills", f"{loads}/{stores} wide", f"{fused} fma"]
    return ", ".join([*parts, *tensor])


def lines(log: Path) -> Iterator[str]:
    """Run everything and yield the Markdown."""
    yield "| proved without a GPU | passed | skipped | failed |"
    yield "| --- | ---: | ---: | ---: |"
    for part, outcomes in prove(log):
        counts = " | ".join(str(outcomes[kind]) for kind in ("passed", "skipped", "failed"))
        yield f"| {part} | {counts} |"
    yield ""
    records = [json.loads(line) for line in log.read_text().splitlines()]
    yield f"The most that any of a kernel's functions uses; {len(records)} functions were read."
    yield ""
    yield from binaries([r for r in records if "broken" not in r["test"]])


def main() -> None:
    """Print the tables, and put them between their marks in a file if asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence", description=__doc__)
    parser.add_argument("--write", type=Path, help="a Markdown file with marks for the tables")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "evidence.jsonl"
        log.touch()
        text = "\n".join(lines(log)) + "\n"
    print(text)
    if options.write:
        replace_figures(options.write, BEGIN, END, text)


if __name__ == "__main__":
    main()
