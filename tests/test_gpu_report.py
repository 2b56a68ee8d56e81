"""The parts of the GPU report that a CPU can stand in for."""

import sys

import torch

from benchmarks import gpu
from fastdiff.kernels.checks import CHECKS, random_step

CPU = torch.device("cpu")


def test_step_bytes_counts_every_field_of_the_records():
    # Per element: x, x', D for 5 rows; 4 rows read 4 history slots and write one; in float16 5
    # conditional and 3 unconditional outputs, 2 of a learned scale, and 5 next inputs.
    expected = 4 * (3 * 5 + 4 * 4 + 4) + 2 * (5 + 3 + 2 + 5)
    found = gpu.step_bytes(random_step(0, 64, torch.float16))
    assert found == {"step": 64 * expected, "gather": 64 * 2 * (2 * 5 + 3)}


def test_report_names_every_kernel_and_prints_as_markdown(monkeypatch):
    monkeypatch.setitem(sys.modules, "fastdiff._cuda", None)  # wherever this runs
    report = {
        "device": "a card",
        "machine": {"description": "a machine", "packages": {"torch": "2.13"}},
        "first_uses": gpu.first_uses(CPU),
        "kernels": gpu.kernel_rates(CPU, n=256),
        "attention": gpu.attention_rates(CPU, length=32),
    }
    assert {row["operator"] for row in report["first_uses"]} == set(CHECKS)
    assert all(row["mismatch"] for row in report["first_uses"])
    assert all(row["gigabytes_per_second"] > 0 for row in report["kernels"])
    assert all(rates["tflops"]["torch"] > 0 for rates in report["attention"])
    text = "\n".join(gpu.markdown(report))
    assert text.startswith("# fastdiff on a card")
