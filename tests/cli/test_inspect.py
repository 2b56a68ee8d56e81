import re

import pytest
import torch
from torch import nn

from fastdiff import errors
from fastdiff.cli import app
from fastdiff.compiler import describe
from fastdiff.exporting import export_onnx
from fastdiff.native.describing import total_by_kind, total_rows
from fastdiff.native.nodes import Attention, Conv, Map
from fastdiff.native.views import View
from fastdiff.networks import Network


def inspect(*arguments):
    app(["inspect", *arguments], standalone_mode=False)


def cells(line):
    """Return the cells of a row of a listing: columns are two spaces apart."""
    return re.split(r" {2,}", line.rstrip())


def test_inspect_lists_calls_algorithms_times_and_memory(capsys):
    inspect("digits", "--batch", "2", "--profile")
    listing, totals, memory = capsys.readouterr().out.strip().split("\n\n")
    heading, *rows = listing.splitlines()
    assert cells(heading) == ["kind", "name", "shape", "with", "MFLOP", "GFLOP/s", "ms"]
    (conv,) = (row for row in rows if " encoder.conv2 " in row)
    kind, *texts, mflop, rate, ms = cells(conv)
    assert kind in {"Conv direct", "Conv winograd2", "Conv winograd4"}
    assert texts == ["encoder.conv2", "8x8x32 -> 8x8x32", "3x3, residual"]
    assert float(mflop) == pytest.approx(2 * 2 * 8 * 8 * 32 * 9 * 32 / 1e6, abs=0.005)
    assert 0 < float(ms) < 1e3
    assert float(rate) * float(ms) == pytest.approx(float(mflop), abs=0.0006 * float(rate) + 0.01)
    (norm,) = (row for row in rows if " encoder.norm1 " in row)
    assert cells(norm)[:-1] == ["GroupNorm", "encoder.norm1", "64x32", "8 groups, silu"]

    kinds = [cells(row)[0] for row in rows]
    _, *groups, everything = map(cells, totals.splitlines())
    assert {group[0]: int(group[1]) for group in groups} == {k: kinds.count(k) for k in set(kinds)}
    assert int(everything[1]) == len(rows)
    assert everything[-1] == "100.0%"
    times = [float(group[-2]) for group in groups]
    assert times == sorted(times, reverse=True)
    assert float(everything[-2]) == pytest.approx(sum(times), abs=0.01)

    assert f"{torch.get_num_threads()} threads, batch 2" in memory
    weights, arena, live, scratch = map(float, re.findall(r"([\d.]+) (?:MiB|are)", memory))
    assert 4 * 314_753 / 2**20 <= weights < 8  # padded; Winograd makes 36 of 9 numbers
    assert 0 < live <= arena < 0.2
    assert 0 < scratch < 1


def test_inspect_reads_an_onnx_file(capsys, tmp_path):
    network, _ = describe("digits")
    inspect(str(export_onnx(network, tmp_path / "digits.onnx")))
    listing, *_ = capsys.readouterr().out.strip().split("\n\n")
    (conv,) = (row for row in listing.splitlines() if " encoder.conv2 " in row)
    assert cells(conv)[2:4] == ["8x8x32 -> 8x8x32", "3x3, residual"]


def test_totals_count_every_operation_of_the_definition():
    image, tokens = View.of("image", (5, 7, 3)), View.of("tokens", (2, 35, 4))
    nodes = [
        Conv("a", image, View.of("a", (5, 7, 11)), "w", kernel=(3, 3), padding=(1, 1)),
        Conv("b", image, View.of("b", (5, 7, 11)), "w", kernel=(3, 3), padding=(1, 1)),
        Attention("c", tokens, tokens, tokens, tokens, 0.5),
        Map("d", tokens, (tokens,)),
    ]
    conv, attention = 2 * 5 * 7 * 11 * 9 * 3, 2 * 2 * 35 * 35 * (4 + 4)
    algorithms = {"a": "direct", "b": "winograd4"}
    totals = {total.kind: total for total in total_by_kind(nodes, None, algorithms, images=3)}
    assert totals["Conv direct"].flops == totals["Conv winograd4"].flops == 3 * conv
    assert totals["Attention"].flops == 3 * attention
    assert (totals["Map"].flops, totals["Map"].seconds) == (0, 0.0)

    rows = total_rows(total_by_kind(nodes, dict.fromkeys("abcd", 1e-4), algorithms))
    assert rows[-1] == [
        "all", "4", f"{(2 * conv + attention) / 1e6:.2f}",
        f"{(2 * conv + attention) / 4e-4 / 1e9:.1f}", "0.400", "100.0%",
    ]  # fmt: skip
    assert total_rows(total_by_kind(nodes))[0] == ["kind", "nodes", "MFLOP"]


class Sorts(nn.Module):
    def forward(self, x, t):
        return x.sort(dim=-1).values


def test_inspect_names_the_operator_that_has_no_kernel(monkeypatch):
    network = Network(Sorts(), (1, 4, 4), {}, "sorts")
    monkeypatch.setattr("fastdiff.compiler.describe", lambda model: (network, None))
    with pytest.raises(errors.Unavailable, match=r"cannot read aten\.sort"):
        inspect("sorts")


@pytest.mark.parametrize(
    ("option", "value", "match"),
    [
        ("--batch", "0", "--batch: expected at least 1, got 0"),
        ("--precision", "float16", "expected one of float32, bfloat16, int8, got 'float16'"),
    ],
)
def test_inspect_refuses_options_that_it_cannot_serve(option, value, match):
    with pytest.raises(errors.InvalidArgument, match=match):
        inspect("digits", option, value)


def test_inspect_help_says_what_a_line_is(capsys):
    with pytest.raises(SystemExit):
        app(["inspect", "--help"])
    out = capsys.readouterr().out
    assert "fastdiff inspect digits --batch 4 --profile" in " ".join(out.split())
    assert "winograd4" in out
