"""What the documents say is so."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("fastdiff/**/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_named_files_exist(path):
    text = path.read_text()
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", text)
    named = re.findall(r"`((?:docs|csrc|fastdiff|tests|benchmarks|examples)/[\w./]+\.\w+)`", text)
    missing = [link for link in links if not (path.parent / link).exists()]
    missing += [name for name in named if not (ROOT / name).exists()]
    assert missing == []


def test_nobody_is_told_to_install_the_unrelated_package():
    """The name fastdiff on the package index belongs to a diff library."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode:
        pytest.skip("not a git checkout, so there is no list of the project's files")
    wrong = re.compile(r"(?:pip|uv pip|uv|poetry) (?:install|add) ['\"]?fastdiff(?![-/\w])")
    for name in listed.stdout.split():
        path = ROOT / name
        if path.suffix in {".md", ".py", ".toml", ".txt", ".cpp", ".h", ""} and path.is_file():
            assert not wrong.search(path.read_text(errors="ignore")), name


def glossary():
    """Yield the words of the glossary, each with the names and files where the code has it."""
    for line in (ROOT / "docs" / "glossary.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if line.startswith("| ") and len(cells) == 3 and cells[0] not in {"word", "---"}:
            yield cells[0], re.findall(r"`(\w+)` in `([^`]+)`", cells[2])


def test_glossary_names_what_exists():
    missing = [
        (word, name, file)
        for word, places in glossary()
        for name, file in places or [("a place", "nowhere")]
        if not defines(ROOT / file, name)
    ]
    assert missing == []


def defines(path, name):
    """Whether a file defines a class, function, alias or constant of this name."""
    kind = r"class |def |struct |using |constexpr \w+ |FASTDIFF_INLINE \w+ |"
    definition = re.compile(rf"^(?:{kind}){name}\b(?!\.)", re.MULTILINE)
    return path.is_file() and bool(definition.search(path.read_text()))


def test_glossary_uses_only_words_that_it_explains():
    text = (ROOT / "docs" / "glossary.md").read_text()
    known = {part for word, _ in glossary() for part in word.split(", ")}
    italic = set(re.findall(r"(?<!\*)\*([a-z][a-z -]*)\*(?!\*)", text))
    assert {word for word in italic if word.removesuffix("s") not in known} <= {"Italic"}
