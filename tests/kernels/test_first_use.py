"""The check of a kernel's first use: the CPU kernels stand in for a device's."""

import json

import pytest
import torch

from fastdiff.kernels import first_use
from fastdiff.kernels.checks import CHECKS

CPU = torch.device("cpu")


def sdpa(q, k, v, out, scale):
    out.copy_(torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale))


RIGHT = {
    "fill_normal": torch.ops.fastdiff.fill_normal,
    "step": torch.ops.fastdiff.step,
    "gather": torch.ops.fastdiff.gather,
    "attention": sdpa,
}


def wrong(operator):
    """The right kernel with one fault each that a driver or compiler might make."""

    def fill_normal(out, *rest):
        RIGHT["fill_normal"](out, *rest)
        out[-1, -1] = torch.nextafter(out[-1, -1], torch.tensor(9.0))

    def step(**arguments):
        RIGHT["step"](**arguments)
        arguments["history"][3, :, -1] += 1e-3

    def gather(**arguments):
        RIGHT["gather"](**arguments)
        arguments["t"][arguments["t"] != 0] = 1

    def attention(q, k, v, out, scale):
        sdpa(q, k[:, :, :-1], v[:, :, :-1], out, scale)

    return locals()[operator]


@pytest.mark.parametrize("operator", CHECKS)
def test_right_kernel_passes_and_wrong_one_is_named_with_its_difference(operator):
    assert CHECKS[operator](RIGHT[operator], CPU) is None
    mismatch = CHECKS[operator](wrong(operator), CPU)
    assert mismatch is not None
    assert "differ" in mismatch or "expected at most" in mismatch


def test_verdict_is_kept_and_recalled_without_running_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    calls = []

    def counted(*arguments):
        calls.append(1)
        wrong("fill_normal")(*arguments)

    for _ in range(2):
        found = first_use.verdict("fill_normal", "cuda", counted, CPU)
    assert len(calls) == 1
    report = json.loads((tmp_path / "kernels" / found.report.rsplit("/", 1)[1]).read_text())
    assert report["mismatch"] == found.mismatch
    assert "1 of" in found.mismatch


def test_corrupt_record_is_checked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    for text in (None, "{", '{"passed": true}', "[]"):
        found = first_use.verdict("gather", "cuda", RIGHT["gather"], CPU)
        assert found.mismatch is None
        if text is not None:
            (tmp_path / "kernels" / found.report.rsplit("/", 1)[1]).write_text(text)


@pytest.mark.parametrize("change", ["content_hash", "version"])
def test_other_content_or_another_compiler_is_another_kernel(tmp_path, monkeypatch, change):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    first = first_use.verdict("gather", "triton", RIGHT["gather"], CPU)
    monkeypatch.setattr(first_use, change, lambda *name: "9.9")
    assert first_use.verdict("gather", "triton", RIGHT["gather"], CPU).report != first.report
