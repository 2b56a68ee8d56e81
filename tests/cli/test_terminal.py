"""Tables and progress at any width, on terminals and in pipes."""

import io

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastdiff.bench.results import Result, to_table
from fastdiff.bench.timing import Spread
from fastdiff.cli import terminal
from fastdiff.cli.terminal import make_console, show_table, tell_progress

WIDTHS = (60, 80, 160)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def console_of(width):
    return Console(
        file=Terminal(),
        width=width,
        force_terminal=True,
        color_system=None,
        markup=False,
        emoji=False,
        highlight=False,
    )


def printed(table, width):
    console = console_of(width)
    show_table(console, table)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def bench_table(model="digits"):
    common = {"model": model, "solver": "ddim", "steps": 20, "peer": False, "backend": "native"}
    figures = {
        "steps_per_second": 1234.5,
        "images_per_second": 61.72,
        "p50_ms": 0.81,
        "p95_ms": 1.02,
        "peak_memory_bytes": 311_000_000,
        "error": 1.2e-06,
        "ratio": Spread(7.61, 7.12, 8.03),
    }
    names = ("fastdiff onnxruntime float32", "torch.compile auto")
    ran = [
        Result(batch=batch, contender=name, precision="float32", **common, **figures)
        for batch in (1, 16)
        for name in names
    ]
    reason = "there is no GPU, and the kernels of this precision are for nothing else"
    refused = [
        Result(batch=n, contender="x", precision="int8", refused=reason, **common) for n in (1, 16)
    ]
    return to_table(ran + refused)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_of_a_benchmark_keeps_every_word_whole(width):
    lines = printed(bench_table(), width)
    assert max(map(len, lines)) <= width
    words = " ".join(lines).split()
    for word in ("onnxruntime", "torch.compile", "float32", "1234.5", "61.72", "1.2e-06", "8.03)"):
        assert words.count(word) >= 2
    assert words.count("refused") == 1  # for both batch sizes
    assert "there is no GPU, and the kernels of this precision are" in " ".join(words)


def test_a_table_that_fits_has_a_line_for_each_row():
    rows = [line.strip() for line in printed(bench_table(), 160) if "1234.5" in line]
    assert [row.split()[0] for row in rows] == ["1", "1", "16", "16"]
    assert "fastdiff onnxruntime float32  native float32" in rows[0]


def test_a_table_whose_words_do_not_fit_is_records():
    lines = printed(bench_table(), 60)
    assert lines[:6] == [
        "digits, ddim in 20 steps",
        "batch: 1  contender: fastdiff onnxruntime float32",
        "  ran on: native float32  steps/s: 1234.5  images/s: 61.72",
        "  p50 ms: 0.81  p95 ms: 1.02  MB: 311  error: 1.2e-06",
        "  times diffusers: 7.61 (7.12 to 8.03)",
        "batch: 1  contender: torch.compile auto",
    ]


def test_cells_are_wrapped_between_words_alone():
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in ("name", "detail"):
        table.add_column(heading)
    table.add_row("torch.compile auto", "one two three four five six")
    assert printed(table, 30) == [
        "name                detail",
        "torch.compile auto  one two",
        "                    three four",
        "                    five six",
    ]


def test_what_comes_from_outside_is_no_markup():
    table = bench_table(model="[bold]/x[/y]/:smile:")
    table.add_row("[red]", Text("[/red]"), *[""] * 8)
    for width in WIDTHS:
        text = "\n".join(printed(table, width))
        assert "[bold]/x[/y]/:smile:" in text
        assert "[red]" in text
        assert "[/red]" in text


def test_nothing_is_wrapped_in_a_pipe(capsys):
    table = bench_table(model="m" * 300)
    show_table(make_console(), table)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "m" * 300 + ", ddim in 20 steps"
    assert sum("onnxruntime float32  native float32" in line for line in lines) == 2
    assert any("for nothing else" in line for line in lines)


def test_progress_in_a_pipe_is_a_line_on_stderr_for_each_thing(capsys):
    with tell_progress() as say:
        say("preparing [a]")
        say("round 1 of 5")
    captured = capsys.readouterr()
    assert captured.err.splitlines() == ["preparing [a]", "round 1 of 5"]
    assert captured.out == ""


def test_progress_on_a_terminal_shows_the_text_as_it_is(monkeypatch):
    console = console_of(60)
    monkeypatch.setattr(terminal, "make_console", lambda stderr: console)
    with tell_progress() as say:
        say("preparing [/bold]")
        console.file.truncate(0)
        console.print()  # draws the spinner anew below it
    assert "preparing [/bold]" in console.file.getvalue()
