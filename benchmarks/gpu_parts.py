"""What `benchmarks.gpu` measures, part by part: each yields its findings as they come.

A finding is a dictionary; its key ``wrong``, if there, says what is not as it must be.
"""

from __future__ import annotations

import functools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import fastdiff
from fastdiff.bench import Comparison, run
from fastdiff.bench.results import cells, ordered
from fastdiff.kernels.checks import random_step
from fastdiff.kernels.gpu_kernels import KERNELS, LANGUAGES, STATUS, load, refusal
from fastdiff.records import BATCH_ROW, TABLE_ROW

Findings = Iterator[dict[str, Any]]

GPU_TESTS = (
    "tests/kernels/attention",
    "tests/kernels/triton",
    "tests/engine/test_graph_executor.py",
)
"""Where the tests with the mark ``gpu`` are."""

LARGEST_ERROR = 0.05
"""Relative L2 distance that float16 may put between an image on a GPU and the CPU's."""

_ROUNDS, _CALLS = 15, 20


def first_uses(device: torch.device, *asked: str) -> Findings:
    """Check every kernel, or those of a language, or one such as ``step.cuda``."""
    for operator in KERNELS:
        for language in LANGUAGES:
            if not asked or {language, f"{operator}.{language}"} & set(asked):
                yield first_use(operator, language, device)


def first_use(operator: str, language: str, device: torch.device) -> dict[str, Any]:
    """Check one kernel; where its language is not installed it is missing, which is not wrong."""
    found = {"operator": operator, "language": language}
    if (missing := STATUS[language]()) is not None:
        return found | {"missing": missing}
    reason = refusal(operator, language, device)
    return found if reason is None else found | {"wrong": reason}


def digits(device: torch.device, precision: str) -> Findings:
    """Sample digits without and with graphs, beside the images of the CPU."""
    backend = "eager-cuda" if device.type == "cuda" else "eager"
    reference = _compiled("eager", "float32", graphs=False)
    expected = {solver: _sample(reference, solver) for solver in ("ddim", "ddpm", "dpmpp_2m")}
    before: dict[str, Tensor] = {}
    for graphs in (False, True):
        sampler = _compiled(backend, precision, graphs)
        for solver in expected:
            images = _sample(sampler, solver)
            begin = time.perf_counter()
            again = _sample(sampler, solver)
            found = {
                "backend": backend,
                "precision": precision,
                "graphs": graphs,
                "solver": solver,
                "seconds": time.perf_counter() - begin,
                "repeatable": torch.equal(images, again),
                "eager_because": _eager_because(sampler),
                "relative_l2": _distance(images, expected[solver]),
            }
            if graphs:
                found["bits_of_without_graphs"] = torch.equal(images, before[solver])
            before[solver] = images
            wrong = _wrong_digits(found, device)
            yield found | ({"wrong": wrong} if wrong else {})


def _compiled(backend: str, precision: str, graphs: bool) -> fastdiff.Sampler:
    os.environ["FASTDIFF_GRAPHS"] = "1" if graphs else "0"
    return fastdiff.compile(
        "digits", backend=backend, precision=precision, cache=False, verify="warn"
    )


def _sample(sampler: fastdiff.Sampler, solver: str) -> Tensor:
    """Return an image of each digit."""
    return sampler.sample(
        class_labels=list(range(10)), solver=solver, steps=20, guidance_scale=1.5, seed=0
    )


def _eager_because(sampler: fastdiff.Sampler) -> str | None:
    """Say why no graph is replayed; None on a CPU, which has none."""
    status = getattr(sampler.engine.executor, "status", list)()
    return next((bucket.eager_because for bucket in status if bucket.eager_because), None)


def _distance(images: Tensor, expected: Tensor) -> float:
    return float((images - expected).norm() / expected.norm())


def _wrong_digits(found: Mapping[str, Any], device: torch.device) -> str | None:
    """Say what is not as it must be."""
    if not found["relative_l2"] <= LARGEST_ERROR:  # so for NaN
        return f"a relative error of {found['relative_l2']:.2g}, expected {LARGEST_ERROR} at most"
    if not found["repeatable"]:
        return "the same call gave other images"
    if found["graphs"] and device.type == "cuda" and found["eager_because"]:
        return f"no graph: {found['eager_because']}"
    return None


def kernel_rates(device: torch.device, n: int = 1 << 20) -> Findings:
    """Measure the kernels that memory bounds, in GB/s, beside a copy of the same bytes."""
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
    for name, (call, size) in cases.items():
        source = torch.empty(size // 8, device=device)
        target = torch.empty_like(source)
        seconds = seconds_per_call(call, device)
        copy = seconds_per_call(lambda a=target, b=source: a.copy_(b), device)
        yield {
            "kernel": name,
            "gigabytes_per_second": size / seconds / 1e9,
            "copy_gigabytes_per_second": 2 * source.numel() * 4 / copy / 1e9,
        }


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


def attention_rates(device: torch.device, length: int = 1024) -> Findings:
    """Measure attention in each language, in TFLOP/s, beside torch's own."""
    calls: dict[str, Callable[..., object]] = {
        "torch": lambda q, k, v, out, scale: scaled_dot_product_attention(q, k, v, scale=scale)
    }
    for language in LANGUAGES:
        if refusal("attention", language, device) is None:
            calls[language] = load("attention", language)
    for size in (64, 128, 40, 80, 160, 32):
        q, k, v = torch.randn(3, 4, 8, length, size, device=device).half()
        given, flops = (q, k, v, torch.empty_like(q), size**-0.5), 4 * 4 * 8 * length**2 * size
        rates = {
            name: flops / seconds_per_call(functools.partial(call, *given), device) / 1e12
            for name, call in calls.items()
        }
        yield {"head_size": size, "tflops": rates}


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


def gpu_tests(device: torch.device) -> Findings:
    """Run the tests that need a GPU; in several processes, of which a lost device ends one."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu"]
    if find_spec("xdist"):
        command += ["-n", str(max(1, min(4, (os.cpu_count() or 1) // 4)))]
    done = subprocess.run([*command, *GPU_TESTS], capture_output=True, text=True, check=False)
    summary = done.stdout.strip().rsplit("\n", 1)[-1]
    found = {"summary": summary, "output": done.stdout[-4000:]}
    yield found | ({"wrong": f"exit code {done.returncode}"} if done.returncode else {})


def sanitized(device: torch.device, check: str, language: str) -> Findings:
    """Run a language's first uses, which are not recalled, under a check of compute-sanitizer."""
    tool = shutil.which("compute-sanitizer")
    missing = STATUS[language]() if tool else "compute-sanitizer comes with the CUDA toolkit"
    if missing:
        yield {"check": check, "language": language, "missing": missing}
        return
    command = [str(tool), "--tool", check, "--error-exitcode", "9", sys.executable]
    command += ["-m", "benchmarks.gpu", "--part", "first_uses", language]
    with tempfile.TemporaryDirectory(prefix="fastdiff-") as folder:
        environment = os.environ | {"FASTDIFF_CACHE": folder}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    found = {"check": check, "language": language, "output": done.stdout[-2000:]}
    yield found | ({"wrong": f"exit code {done.returncode}"} if done.returncode else {})


def samples(device: torch.device, model: str, graphs: str, *peers: str) -> Findings:
    """Measure whole samples of a model beside peers."""
    os.environ["FASTDIFF_GRAPHS"] = graphs
    plan = Comparison(
        backends=("eager-cuda" if device.type == "cuda" else "eager",),
        precisions=("float16",),
        peers=peers,
        batches=(1, 8, 32) if device.type == "cuda" else (1,),
        rounds=3,
    )
    for result in ordered(run(model, plan)):
        found = {"model": model, "graphs": graphs == "1", **asdict(result)}
        yield found | {"cells": cells(result)}


PARTS: dict[str, Callable[..., Findings]] = {
    "first_uses": first_uses,
    "digits": digits,
    "kernels": kernel_rates,
    "attention": attention_rates,
    "tests": gpu_tests,
    "sanitizer": sanitized,
    "samples": samples,
}
