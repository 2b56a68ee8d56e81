"""Figures between marks in a Markdown file."""

from __future__ import annotations

from pathlib import Path


def replace_figures(path: Path, begin: str, end: str, text: str) -> None:
    """Put `text` between the marks `begin` and `end`, each of which `path` holds once."""
    before, rest = path.read_text().split(begin)
    _, after = rest.split(end)
    path.write_text(f"{before}{begin}{text}{end}{after}")
