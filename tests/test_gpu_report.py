"""The GPU report: its findings on a CPU, its budget, and what it calls wrong."""

import json
import sys

import pytest
import torch

from benchmarks import gpu, gpu_parts
from benchmarks.gpu import Part
from fastdiff.kernels import gpu_kernels
from fastdiff.kernels.checks import CHECKS, random_step
from fastdiff.kernels.gpu_kernels import KERNELS, LANGUAGES

CPU = torch.device("cpu")


def test_step_bytes_counts_every_field_of_the_records():
    # Per element: x, x', D for 5 rows; 4 rows read 4 history slots and write one; in float16 5
    # conditional and 3 unconditional outputs, 2 of a learned scale, and 5 next inputs.
    expected = 4 * (3 * 5 + 4 * 4 + 4) + 2 * (5 + 3 + 2 + 5)
    found = gpu_parts.step_bytes(random_step(0, 64, torch.float16))
    assert found == {"step": 64 * expected, "gather": 64 * 2 * (2 * 5 + 3)}


@pytest.fixture
def installed(monkeypatch):
    """Both languages, with the given refusals of their kernels."""
    refused = {}

    def refusal(operator, language, device):
        return refused.get(f"{operator}.{language}")

    monkeypatch.setattr(gpu_parts, "STATUS", dict.fromkeys(gpu_kernels.LANGUAGES, lambda: None))
    monkeypatch.setattr(gpu_parts, "refusal", refusal)
    return refused


def test_first_uses_of_right_kernels_end_with_zero(installed, capsys):
    assert gpu.run_part("first_uses", [], "cpu", None) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {one["operator"] for one in found} == set(CHECKS)
    assert len(found) == len(KERNELS) * len(LANGUAGES)


def test_a_wrong_kernel_is_told_from_a_language_that_is_not_installed(
    installed, capsys, monkeypatch
):
    installed["gather.triton"] = "3 of 7 differ"
    assert gpu.run_part("first_uses", ["cuda"], "cpu", None) == 0
    assert gpu.run_part("first_uses", ["gather.triton"], "cpu", None) == 1
    assert '"wrong": "3 of 7 differ"' in capsys.readouterr().out
    monkeypatch.setattr(gpu_parts, "STATUS", {"cuda": lambda: "no nvcc"})
    assert gpu.run_part("first_uses", ["cuda"], "cpu", None) == 0
    assert capsys.readouterr().out.count('"missing": "no nvcc"') == 4


def test_every_kernel_is_tried_alone_and_before_all_else():
    first = [part for part in gpu.plan() if part.name == "first_uses"]
    assert gpu.plan()[: len(first)] == first
    assert len(first) == len(KERNELS) * len(LANGUAGES)
    for part in gpu.plan():
        assert part.name in gpu_parts.PARTS


SCRIPTS = {
    "kernels": "found(dict(kernel='step', gigabytes_per_second=7, copy_gigabytes_per_second=9))",
    "first_uses": "found({'operator': 'step', 'language': 'cuda', 'wrong': 'bad | bits'}); exit(1)",
    "digits": "import time; found({'half': 1}); time.sleep(600)",
    "attention": "import os; os.abort()",
}
FOUND = """
import json
def found(facts):
    with open({out!r}, "a") as file:
        file.write(json.dumps({{"part": {part!r}, "found": facts}}) + chr(10))
"""


@pytest.fixture
def scripted(monkeypatch):
    """Parts that find, are wrong, hang and crash, in the place of the true ones."""

    def command(part, device, out):
        begin = FOUND.format(out=str(out), part=str(part))
        return [sys.executable, "-c", begin + SCRIPTS[part.name]]

    monkeypatch.setattr(gpu, "command", command)
    monkeypatch.setattr(gpu, "TABLES", {k: v for k, v in gpu.TABLES.items() if k != "digits"})


def test_a_part_that_hangs_or_crashes_costs_itself_alone(scripted, tmp_path):
    out = tmp_path / "report.jsonl"
    parts = [Part("digits", (), 2, decides=True), Part("attention"), Part("kernels")]
    assert gpu.run_plan(parts, "cpu", 500, out) == 1
    text = out.with_suffix(".md").read_text()
    assert "| step | 7 | 9 |" in text
    assert "- digits: stopped after 2 s" in text
    assert "code -6" in text
    assert {"part": "digits", "found": {"half": 1}} in gpu.read(out)  # what it had so far


def test_wrong_findings_decide_the_exit_code_and_head_the_report(scripted, tmp_path):
    out = tmp_path / "report.jsonl"
    assert gpu.run_plan([Part("kernels")], "cpu", 500, out) == 0
    assert "Nothing is wrong." in out.with_suffix(".md").read_text()
    assert gpu.run_plan([Part("first_uses"), Part("kernels")], "cpu", 500, out) == 1
    text = out.with_suffix(".md").read_text()
    assert "\nWrong:\n\n- first_uses: bad | bits\n" in text
    assert "| step | cuda | bad \\| bits |" in text


def test_what_the_budget_leaves_out_is_named(scripted, tmp_path):
    out = tmp_path / "report.jsonl"
    assert gpu.run_plan([Part("kernels")], "cpu", 0, out) == 0
    assert "- kernels: left out, the budget is spent" in out.with_suffix(".md").read_text()
    assert gpu.run_plan([Part("digits", decides=True)], "cpu", 0, out) == 1


def test_rates_have_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_parts, "_ROUNDS", 1)
    monkeypatch.setattr(gpu_parts, "_CALLS", 1)
    out = tmp_path / "report.jsonl"
    out.write_text(json.dumps({"part": "machine", "device": "a card", "description": "a machine",
                               "packages": {"torch": "2.13"}}) + "\n")  # fmt: skip
    for name, found in (
        ("kernels", gpu_parts.kernel_rates(CPU, n=256)),
        ("attention", gpu_parts.attention_rates(CPU, length=32)),
    ):
        for one in found:
            gpu.append(out, {"part": name, "found": one})
    text = "\n".join(gpu.markdown(gpu.read(out)))
    assert text.startswith("# fastdiff on a card\n\na machine, torch 2.13.")
    assert text.count("| torch ") == 6
    assert "| fill_normal | " in text
