"""The check of a kernel's first use: the CPU kernels stand in for a device's."""

import json
import warnings

import pytest
import torch

from fastdiff.errors import KernelWarning
from fastdiff.kernels import first_use
from fastdiff.kernels.operators import LANGUAGES

CPU = torch.device("cpu")


def sdpa(q, k, v, out, scale):
    out.copy_(torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=scale))


def group_norm(x, groups, weight, bias, eps=1e-5, silu=False):
    y = torch.nn.functional.group_norm(x.float(), groups, weight.float(), bias.float(), eps)
    return torch.nn.functional.silu(y).to(x.dtype)


def modulated_layer_norm(x, shift, scale, eps=1e-6):
    y = torch.nn.functional.layer_norm(x.float(), x.shape[-1:], eps=eps)
    return (y * (1 + scale.float()[:, None]) + shift.float()[:, None]).to(x.dtype)


RIGHT = {
    "fill_normal": torch.ops.fastdiff.fill_normal,
    "step": torch.ops.fastdiff.step,
    "gather": torch.ops.fastdiff.gather,
    "attention": sdpa,
    "group_norm": group_norm,
    "modulated_layer_norm": modulated_layer_norm,
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

    def norm(x, *rest, **options):
        y = RIGHT[operator](x, *rest, **options)
        y[..., -1] *= 1.1
        return y

    faults = {
        "fill_normal": fill_normal,
        "step": step,
        "gather": gather,
        "attention": attention,
    }
    return faults.get(operator, norm)


@pytest.fixture(autouse=True)
def _known_content(monkeypatch):
    """Operators of torch have no source file, so the content is said."""
    monkeypatch.setattr(first_use, "content_hash", repr)


@pytest.mark.parametrize("operator", first_use.CHECKS)
def test_right_kernel_passes_and_wrong_one_is_named_with_its_difference(operator):
    assert first_use.CHECKS[operator](RIGHT[operator], CPU) is None
    mismatch = first_use.CHECKS[operator](wrong(operator), CPU)
    assert mismatch is not None
    assert "differ" in mismatch or "expected at most" in mismatch


def test_verdict_is_kept_and_the_warning_repeated_without_running_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    calls = []

    def counted(*arguments):
        calls.append(1)
        wrong("fill_normal")(*arguments)

    for _ in range(2):
        with pytest.warns(KernelWarning, match="the cuda kernel fill_normal is not used on cpu"):
            found = first_use.verdict("fill_normal", "cuda", counted, CPU)
    assert len(calls) == 1
    report = json.loads((tmp_path / "kernels" / found.report.rsplit("/", 1)[1]).read_text())
    assert report["mismatch"] == found.mismatch
    assert "1 of" in found.mismatch


def test_corrupt_record_is_checked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for text in (None, "{", '{"passed": true}', "[]"):
            found = first_use.verdict("gather", LANGUAGES[0], RIGHT["gather"], CPU)
            assert found.mismatch is None
            if text is not None:
                (tmp_path / "kernels" / found.report.rsplit("/", 1)[1]).write_text(text)


def test_other_content_is_another_kernel(tmp_path, monkeypatch):
    monkeypatch.setenv("FASTDIFF_CACHE", str(tmp_path))
    first = first_use.verdict("gather", "triton", RIGHT["gather"], CPU)
    monkeypatch.setattr(first_use, "content_hash", lambda kernel: "edited")
    assert first_use.verdict("gather", "triton", RIGHT["gather"], CPU).report != first.report
