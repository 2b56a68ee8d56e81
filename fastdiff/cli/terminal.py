"""How the command line prints: nothing is cut, nothing is markup, and progress goes to stderr."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.measure import Measurement, measure_renderables
from rich.table import Table
from rich.text import Text

_UNBOUNDED = 1 << 14  # columns, where no terminal bounds a line
_GAP = "  "


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints what it is given as it stands.

    Names, prompts and paths may have brackets and colons: neither is markup or an emoji here. A
    pipe or a file has no width, so nothing is wrapped for it.
    """
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.file.isatty():
        console.width = _UNBOUNDED
    return console


def show_table(console: Console, table: Table) -> None:
    """Print a table with every word whole.

    Cells are wrapped between words where the terminal is narrower than the table. Where not even
    their words fit side by side, a row is a record instead: ``heading: cell`` for each cell.
    """
    if table.title:
        console.print(table.title, style="bold")
    body = copy.deepcopy(table)
    body.title = body.caption = None
    if _fit(console, body):
        console.print(body)
    else:
        console.print(Text("\n").join(_records(body, console.width)))
    if table.caption:
        console.print(table.caption)


def _fit(console: Console, table: Table) -> bool:
    """Give the columns widths that fit together, those that wrap most first; False if none do."""
    unbounded = console.options.update(width=_UNBOUNDED)
    sizes = [
        measure_renderables(console, unbounded, [column.header, *column.cells])
        for column in table.columns
    ]
    excess = Measurement.get(console, unbounded, table).maximum - console.width
    if excess > sum(size.span for size in sizes):
        return False
    for column, size in sorted(
        zip(table.columns, sizes, strict=True), key=lambda each: -each[1].span
    ):
        less = max(0, min(size.span, excess))
        column.width, excess = size.maximum - less, excess - less
    return True


def _records(table: Table, width: int) -> Iterator[Text]:
    """Yield the lines of a table's rows as records, the first of each without indent."""
    cells = zip(*(column.cells for column in table.columns), strict=True)
    for row, texts in zip(table.rows, cells, strict=True):
        pairs = [
            f"{column.header}: {text}" if column.header else str(text)
            for column, text in zip(table.columns, texts, strict=True)
            if str(text)
        ]
        for line in _flow(pairs, width):
            yield Text(line, style=row.style or "")


def _flow(parts: Sequence[str], width: int) -> Iterator[str]:
    """Yield lines of as many parts as fit, later lines with an indent."""
    line, *others = parts or [""]
    for part in others:
        if len(line) + len(_GAP) + len(part) > width:
            yield line
            line = ""
        line += _GAP + part
    yield line


@contextlib.contextmanager
def tell_progress() -> Iterator[Callable[[str], None]]:
    """Give a function that says on stderr what is being done.

    It does so beside a spinner on a terminal, and with a line for each thing elsewhere.
    """
    console = make_console(stderr=True)
    if not console.file.isatty():
        yield console.print
        return
    with console.status("") as status:
        yield lambda text: status.update(Text(text))
