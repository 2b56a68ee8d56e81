"""Everything that only a GPU can tell, in one command: ``make gpu-check``.

Runs the tests that are skipped without a GPU, the first-use check of every kernel, the same under
compute-sanitizer where it is installed, and the speed tables: kernels against the card's own copy
rate, and whole samples beside diffusers, ``torch.compile`` and onnxruntime, with CUDA graphs and
without. Writes gpu-report.json and gpu-report.md; please attach both to a report.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fastdiff.bench import Plan, describe_run, run
from fastdiff.bench.results import HEADINGS, cells, ordered
from fastdiff.denoisers import engine_status
from fastdiff.kernels.checks import random_step
from fastdiff.kernels.first_use import describe_device
from fastdiff.kernels.gpu_kernels import KERNELS, LANGUAGES, load, refusal
from fastdiff.records import BATCH_ROW, TABLE_ROW

MODELS, BATCHES = ("digits", "ddpm-cifar10", "dit-s2"), (1, 8, 32)
_ROUNDS, _CALLS = 15, 20


def first_uses(device: torch.device) -> list[dict[str, Any]]:
    """Check every kernel in every language; one that is missing says why."""
    pairs = [(name, language) for name, (_, languages) in KERNELS.items() for language in languages]
    return [first_use(operator, language, device) for operator, language in pairs]


def first_use(operator: str, language: str, device: torch.device) -> dict[str, Any]:
    """Check one kernel."""
    mismatch = refusal(operator, language, device)
    return {"operator": operator, "language": language, "mismatch": mismatch}


def seconds_per_call(call: Callable[[], object], device: torch.device) -> float:
    """Return the median time of a call, launches in a row, the device's own clock on a GPU."""
    call()
    times = []
    for _ in range(_ROUNDS):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            for _ in range(_CALLS):
                call()
            end.record()
            end.synchronize()
            times.append(begin.elapsed_time(end) / 1e3 / _CALLS)
        else:
            start = time.perf_counter()
            for _ in range(_CALLS):
                call()
            times.append((time.perf_counter() - start) / _CALLS)
    return statistics.median(times)


def kernel_rates(device: torch.device, n: int = 1 << 20) -> list[dict[str, Any]]:
    """Return the GB/s of the kernels that memory bounds, beside a copy of the same bytes."""
    arguments = {name: value.to(device) for name, value in random_step(0, n, torch.float16).items()}
    rows, slots = len(arguments["rows"]), len(arguments["state"])
    x = torch.empty(2 * rows, n, dtype=torch.float16, device=device)
    t = torch.empty(2 * rows, device=device)
    noise = torch.empty(slots, n, device=device)
    seeds = torch.arange(slots, device=device)
    ops = torch.ops.fastdiff
    inputs = [arguments[name] for name in ("table", "rows", "next_input")]
    moved = step_bytes(arguments)
    cases = {
        "step, every term": (lambda: ops.step(**arguments), moved["step"]),
        "gather": (lambda: ops.gather(*inputs, x, t), moved["gather"]),
        "fill_normal": (lambda: ops.fill_normal(noise, seeds, seeds, 0, 1), 4 * noise.numel()),
    }
    results = []
    for name, (call, size) in cases.items():
        source = torch.empty(size // 8, device=device)
        target = torch.empty_like(source)
        seconds = seconds_per_call(call, device)
        copy = seconds_per_call(lambda a=target, b=source: a.copy_(b), device)
        results.append(
            {
                "kernel": name,
                "gigabytes_per_second": size / seconds / 1e9,
                "copy_gigabytes_per_second": 2 * source.numel() * 4 / copy / 1e9,
            }
        )
    return results


def step_bytes(arguments: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the bytes that ``step`` and ``gather`` must move for these records."""
    table = arguments["table"].cpu().numpy().reshape(-1).view(TABLE_ROW)
    rows = arguments["rows"].cpu().numpy().reshape(-1).view(BATCH_ROW)
    rows = rows[rows["slot"] >= 0]
    used, n, half = table[rows["table_row"]], arguments["state"].shape[1], 2
    history = ((used["x"][:, 1:5] != 0) | (used["h"][:, 1:5] != 0)).sum() + (used["dst"] > 0).sum()
    guided = (rows["uncond"] >= 0).sum()
    outputs = len(rows) + guided + (used["w"] != 0).sum()
    fields = 3 * len(rows) + history  # x, x' and D beside the history, in float32
    return {
        "step": int(n * (4 * fields + half * (outputs + len(rows)))),
        "gather": int(n * half * (2 * len(rows) + guided)),
    }


def attention_rates(device: torch.device, length: int = 1024) -> list[dict[str, Any]]:
    """Return the TFLOP/s of attention in each language, beside torch's own."""
    calls: dict[str, Callable[..., object]] = {}
    for language in LANGUAGES:
        if refusal("attention", language, device) is None:
            calls[language] = load("attention", language)
    calls["torch"] = lambda q, k, v, out, scale: scaled_dot_product_attention(q, k, v, scale=scale)
    results = []
    for size in (32, 40, 64, 80, 128, 160):
        q, k, v = torch.randn(3, 4, 8, length, size, device=device).half()
        given, flops = (q, k, v, torch.empty_like(q), size**-0.5), 4 * 4 * 8 * length**2 * size
        rates = {
            name: flops / seconds_per_call(functools.partial(call, *given), device) / 1e12
            for name, call in calls.items()
        }
        results.append({"head_size": size, "tflops": rates})
    return results


def gpu_tests() -> dict[str, Any]:
    """Run the tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "tests"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"exit_code": done.returncode, "output": done.stdout[-4000:]}


def sanitized() -> dict[str, Any]:
    """Run the first-use checks under compute-sanitizer, if it is there."""
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        return {"skipped": "compute-sanitizer is not on PATH; it comes with the CUDA toolkit"}
    found = {}
    for check in ("memcheck", "racecheck", "initcheck", "synccheck"):
        command = [tool, "--tool", check, "--error-exitcode", "9", sys.executable]
        command += ["-m", "benchmarks.gpu", "--first-uses-alone"]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"FASTDIFF_CACHE": f"out/sanitizer-{check}"},
        )
        found[check] = {"exit_code": done.returncode, "output": done.stdout[-2000:]}
    return found


def samples(say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Measure whole samples with every engine that runs on the GPU, beside the peers."""
    usable = [name for name, status in engine_status().items() if status.usable]
    engines = [name for name in usable if "cuda" in name or "tensorrt" in name]
    plan = Plan(
        backends=("auto", *engines),
        precisions=("float16", "bfloat16"),
        peers=("diffusers", "torch.compile", "onnxruntime"),
        batches=BATCHES,
    )
    found = []
    for graphs in ("1", "0"):
        os.environ["FASTDIFF_GRAPHS"] = graphs
        for model in MODELS:
            results = run(model, plan, say)
            found.append(
                {"model": model, "graphs": graphs == "1", "results": [asdict(r) for r in results]}
            )
            table = ["| " + " | ".join(cells(result)) + " |" for result in ordered(results)]
            found[-1]["table"] = table
    return found


def markdown(report: dict[str, Any]) -> Iterator[str]:
    """Yield the report as Markdown."""
    yield f"# fastdiff on {report['device']}"
    yield ""
    yield f"{report['machine']['description']}, torch {report['machine']['packages']['torch']}."
    yield ""
    yield "| kernel | language | first use |"
    yield "| --- | --- | --- |"
    for row in report["first_uses"]:
        yield f"| {row['operator']} | {row['language']} | {row['mismatch'] or 'right'} |"
    yield ""
    yield "| kernel | GB/s | copy, GB/s |"
    yield "| --- | ---: | ---: |"
    for row in report["kernels"]:
        own, copy = row["gigabytes_per_second"], row["copy_gigabytes_per_second"]
        yield f"| {row['kernel']} | {own:.0f} | {copy:.0f} |"
    yield ""
    yield "| head size | TFLOP/s |"
    yield "| ---: | --- |"
    for row in report["attention"]:
        rates = ", ".join(f"{name} {rate:.1f}" for name, rate in row["tflops"].items())
        yield f"| {row['head_size']} | {rates} |"
    for part in report.get("samples", []):
        yield ""
        yield f"## {part['model']}, graphs {'on' if part['graphs'] else 'off'}"
        yield ""
        yield "| " + " | ".join(HEADINGS) + " |"
        yield "| ---: | --- | --- |" + " ---: |" * (len(HEADINGS) - 3)
        yield from part["table"]


def main() -> None:
    """Run everything and write the two files."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-report.json"))
    parser.add_argument("--first-uses-alone", action="store_true", help="for compute-sanitizer")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit(
            f"gpu-check needs an NVIDIA GPU with its driver and a CUDA build of torch; this is "
            f"torch {torch.__version__} and it finds none"
        )
    device = torch.device("cuda", torch.cuda.current_device())
    if options.first_uses_alone:
        wrong = [row for row in first_uses(device) if row["mismatch"]]
        raise SystemExit(json.dumps(wrong) if wrong else 0)
    report: dict[str, Any] = {"device": describe_device(device), "machine": describe_run()}
    with Console(stderr=True).status("first uses") as status:
        report["first_uses"] = first_uses(device)
        for name, part in (
            ("kernels", lambda: kernel_rates(device)),
            ("attention", lambda: attention_rates(device)),
            ("tests", gpu_tests),
            ("sanitizer", sanitized),
            ("samples", lambda: samples(status.update)),
        ):
            status.update(name)
            report[name] = part()
            options.out.write_text(json.dumps(report, indent=1))
    options.out.with_suffix(".md").write_text("\n".join(markdown(report)) + "\n")
    print("\n".join(markdown(report)))


if __name__ == "__main__":
    main()
