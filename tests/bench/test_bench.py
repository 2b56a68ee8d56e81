"""`fastdiff bench` on the digits model: real processes, real peers, no claim about time."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.performance import verdict
from fastdiff.bench import Comparison, Result, run, to_html, to_json
from fastdiff.bench.contenders import BASELINE, Contender, Workload
from fastdiff.bench.timing import Spread, interleave, ratio
from fastdiff.bench.worker import ContenderProcess
from fastdiff.cli import app
from fastdiff.errors import InvalidArgument, Unavailable, UnknownName

KEYS = {
    "backend",
    "precision",
    "batch",
    "steps_per_second",
    "images_per_second",
    "p50_ms",
    "p95_ms",
    "peak_memory_bytes",
    "error",
    "refused",
}
MACHINE = {
    "description": "a <machine>",
    "cores": 2,
    "memory_bytes": 2**34,
    "packages": {"torch": "2.13"},
}


def result(contender="fastdiff auto", **fields):
    known = {
        "model": "digits",
        "solver": "ddim",
        "steps": 4,
        "batch": 2,
        "contender": contender,
        "peer": False,
        "backend": "onnxruntime",
        "precision": "float32",
    }
    return Result(**{**known, **fields})


def test_interleave_takes_turns_and_ratio_compares_rounds():
    order = []
    cases = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = interleave(cases, rounds=3, warmup=1)
    assert order == ["a", "b"] * 4
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 3}
    assert ratio([2.0, 8.0, 3.0], [1.0, 2.0, 3.0]) == Spread(2.0, 1.5, 3.0)


def test_plan_names_every_contender_with_the_baseline_first():
    plan = Comparison(
        backends=("auto", "onnxruntime"), precisions=("float32",), peers=("diffusers",)
    )
    assert [c.name for c in plan.contenders()] == [
        "diffusers float32",
        "fastdiff auto float32",
        "fastdiff onnxruntime float32",
    ]
    assert plan.contenders()[0] == BASELINE


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"backends": ["warp"]}, UnknownName),
        ({"precisions": ["float8"]}, UnknownName),
        ({"peers": ["keras"]}, UnknownName),
        ({"solvers": ["rk45"]}, UnknownName),
        ({"batches": [0]}, InvalidArgument),
        ({"batches": []}, InvalidArgument),
        ({"rounds": 0}, InvalidArgument),
    ],
)
def test_plan_refuses_what_it_does_not_know(fields, error):
    with pytest.raises(error):
        Comparison(**fields)


@pytest.mark.peer
def test_contenders_sample_the_same_images_and_a_refused_one_says_why():
    plan = Comparison(
        backends=["onnxruntime"],
        precisions=["float32", "float16"],
        peers=["diffusers", "onnxruntime", "openvino"],
        batches=[1, 3],
        solvers=["dpmpp_2m"],
        steps=4,
        rounds=2,
    )
    said = []
    results = run("digits", plan, said.append)
    ran = {(r.contender, r.batch): r for r in results if r.refused is None}
    for batch in (1, 3):
        for name in ("fastdiff onnxruntime float32", "plain onnxruntime", "plain openvino"):
            figures = ran[name, batch]
            assert 0 < figures.error < 5e-2  # OpenVINO takes bfloat16 where the CPU has it
            assert figures.steps_per_second == pytest.approx(figures.images_per_second * 4 / batch)
            assert figures.p50_ms <= figures.p95_ms
            assert figures.ratio.low <= figures.ratio.median <= figures.ratio.high
        assert ran["fastdiff onnxruntime float32", batch].error < 1e-4
        assert ran["diffusers float32", batch].error == 0
    refused = {(r.contender, r.batch) for r in results if r.refused}
    assert refused >= {("fastdiff onnxruntime float16", 1), ("fastdiff onnxruntime float16", 3)}
    assert any("has no precision 'float16'" in (r.refused or "") for r in results)
    assert any("round 2 of 2" in text for text in said)


def test_without_peers_the_error_is_the_certificates():
    plan = Comparison(backends=["onnxruntime"], peers=[], batches=[1], steps=2, rounds=1)
    (only,) = run("digits", plan)
    assert only.refused is None
    assert 0 < only.error < 1e-3
    assert only.ratio is None


def test_worker_that_dies_is_refused_and_nothing_hangs():
    load = Workload(1, "ddim", 2)
    with ContenderProcess("digits", Contender("onnxruntime", "float32"), None) as worker:
        assert np.isfinite(worker.prepare(load).sample).all()
        worker._process.kill()
        with pytest.raises(Unavailable, match="ended with code -9"):
            worker.turn(load)


def test_html_opens_without_a_network_and_escapes_what_it_shows():
    spread = Spread(2.0, 1.5, 2.5)
    figures = {
        "steps_per_second": 5.0,
        "images_per_second": 2.5,
        "p50_ms": 1.0,
        "p95_ms": 2.0,
        "error": 1e-6,
        "ratio": spread,
    }
    page = to_html([result(**figures), result("other", refused="needs <gpu>")], MACHINE)
    assert "a &lt;machine&gt;" in page
    assert "needs &lt;gpu&gt;" in page
    assert "2.00 (1.50 to 2.50)" in page
    assert re.search("<(?:script|link|img|iframe)|https?:", page) is None
    assert page.count("<figure>") == 2
    assert len(page) < 300_000


def test_a_contender_has_one_colour_in_tables_and_plots_of_all_models():
    figures = {"steps_per_second": 5.0, "images_per_second": 2.5, "p50_ms": 1.0, "p95_ms": 2.0}
    names = ("diffusers float32", "plain openvino", "fastdiff auto")
    results = [
        result(name, model=model, error=number * 1e-6, **figures)
        for model, order in (("a", names), ("b", names[::-1]))
        for number, name in enumerate(order)  # the first has no error, so it is in one plot only
    ]
    page = to_html(results, MACHINE)
    colors = {name: set() for name in names}
    for color, name in re.findall(r'background:(#\w+)"></span>([^<]+)<', page):
        colors[name].add(color)
    for color, name in re.findall(r'stroke="(#\w+)"[^>]*><title>([^<]+), batch', page):
        colors[name].add(color)
    assert all(len(found) == 1 for found in colors.values())
    assert len(set.union(*colors.values())) == 3


def test_verdict_of_the_performance_page_names_both_precisions():
    turns = {"steps_per_second": 2.0, "turn_seconds": (1.0, 1.0)}
    ours = result(backend="native", precision="bfloat16", error=1e-2, **turns)
    slow = {**turns, "steps_per_second": 1.0, "turn_seconds": (2.0, 2.0)}
    peers = [
        result("plain openvino", peer=True, backend="openvino", error=1e-6, **slow),
        result(BASELINE.name, peer=True, backend="diffusers", error=0.0, turn_seconds=(4.0, 4.0)),
    ]
    assert verdict([ours, *peers]) == (
        "| 2 | native bfloat16 | openvino float32 | 2.00 (2.00 to 2.00) | 4.00 (4.00 to 4.00) |"
    )


def test_json_has_the_promised_keys():
    record = json.loads(json.dumps(to_json([result(refused="no")], MACHINE)))
    assert set(record) == {"machine", "results"}
    assert set(record["results"][0]) >= KEYS


def test_command_prints_a_table_and_writes_both_files(tmp_path):
    words = ["bench", "digits", "--backends", "eager", "--precision", "float32"]
    words += ["--peers", "none", "--batch", "1", "--steps", "2", "--rounds", "1"]
    words += ["--json", str(tmp_path / "b.json"), "--html", str(tmp_path / "b.html")]
    done = CliRunner().invoke(app, words, catch_exceptions=False)
    assert done.exit_code == 0
    assert "digits, ddim in 2 steps" in done.stdout
    assert "fastdiff eager float32  eager float32" in done.stdout
    assert done.stderr.splitlines() == [
        "digits, ddim, batch 1: preparing fastdiff eager float32",
        "digits, ddim, batch 1: round 1 of 1, fastdiff eager float32",
    ]
    (figures,) = json.loads((tmp_path / "b.json").read_text())["results"]
    assert (figures["backend"], figures["precision"], figures["batch"]) == ("eager", "float32", 1)
    assert figures["peak_memory_bytes"] is None or figures["peak_memory_bytes"] > 10**7
    assert "<h1>fastdiff bench</h1>" in (tmp_path / "b.html").read_text()
