"""The documents of the project, and the fenced code blocks in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>[^\n]+?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes
    ----------
    page : Path
        The file that it stands in.
    line : int
        The number of its first line of code in that file, counted from 1.
    language : str
        What follows the opening fence, such as ``"python"``; empty where nothing does.
    text : str
        The code.
    reason : str or None
        Why it does not run, from a comment ``<!-- not run: ... -->`` on the line before the fence.
    """

    page: Path
    line: int
    language: str
    text: str
    reason: str | None


def blocks(page: Path, *languages: str) -> Iterator[Block]:
    """Yield the blocks of a page that are in one of these languages, in order."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        if match["language"] in languages:
            line = text.count("\n", 0, match.start("text")) + 1
            yield Block(page, line, match["language"], match["text"], match["reason"])


def commands(page: Path) -> Iterator[list[str]]:
    """Yield the words of every command line in the shell blocks of a page."""
    for block in blocks(page, "sh", "bash"):
        for line in block.text.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            while words and re.fullmatch(r"\w+=\S*", words[0]):
                words = words[1:]  # an environment variable of the command
            if words:
                yield words
